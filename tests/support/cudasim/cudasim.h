#pragma once
// cudasim: CUDA kernels as ordinary C++, every thread of a block a fiber. This folder comes before CUDA's headers in the include
// path, so that kernels/cuda/ is compiled here as it stands: cuda_runtime.h, cuda_fp16.h, cublas_v2.h and cuda_ptx.h lead here.
//
// Blocks run one after another, in an order that the seed shuffles. A fiber runs until it meets a barrier or a warp collective, so
// which thread runs when is the seed's choice: 0 is a fixed order, odd seeds choose uniformly, even ones draw warp priorities.
// Shared memory is filled with 0xff for every block (a NaN) and has poisoned borders under the address sanitizer. Under the thread
// sanitizer each CUDA thread is a thread of its own, which only barriers, collectives and fences put in order: atomics don't.
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 { unsigned x, y, z; };
struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace cudasim {

struct Site {
    const char* file;
    int line;
};

struct Options {
    std::uint64_t seed = 0;
    int arch = 870;              // what __CUDA_ARCH__ would be
    Site dropped{nullptr, 0};    // the barrier or fence there does nothing: a planted bug
    bool list_sites = false;
};
extern Options options;
/// Barriers and fences that were passed while options.list_sites was set.
std::vector<Site> sites();

struct Thread {
    uint3 index;
    unsigned flat, lane, warp;
};
extern Thread* current;
extern uint3 block_index, block_size, grid_size;
extern unsigned char* dynamic_shared;

/// What a kernel must not do: the message names file, line, block and thread.
struct Error {
    std::string what;
};
[[noreturn]] void fail(const char* message, Site at);

void run(dim3 grid, dim3 block, std::size_t shared, const std::function<void()>& body);
void* shared_slot(const void* key, std::size_t bytes, std::size_t align);
void block_barrier(Site at);
void fence(Site at);
/// Puts `bytes` down for the calling lane, waits for the others in the mask, and returns what all 32 put down, kSlot bytes apart.
/// Good until this lane's next collective of that mask.
constexpr unsigned slot_bytes = 64;
enum class Collective : int { sync, shuffle, ballot, ldmatrix, mma };
const unsigned char* exchange(unsigned mask, const void* mine, unsigned bytes, Collective kind, Site at);

struct Copy {  // cp.async
    void* target;
    const void* source;  // null: zeros
};
void async_copy(Copy copy, Site at);
void async_commit();
void async_wait(int groups_left);

unsigned atomic_inc(unsigned* p, unsigned limit);
int atomic_or(int* p, int value);

template <class T>
T from_lane(const unsigned char* slots, unsigned lane) {
    T value;
    std::memcpy(&value, slots + lane * slot_bytes, sizeof value);
    return value;
}
template <class T, class Tag>
T& shared_variable(Tag) {  // Tag: the type of a lambda, which is another one at every place
    static const char key = 0;
    return *static_cast<T*>(shared_slot(&key, sizeof(T), 16));
}
template <class T>
T shuffle(unsigned mask, T value, unsigned source, Site at) {
    const unsigned char* slots = exchange(mask, &value, sizeof value, Collective::shuffle, at);
    if (source > 31) return value;
    if (!(mask >> source & 1)) fail("a shuffle reads a lane outside its mask", at);
    return from_lane<T>(slots, source);
}

}  // namespace cudasim

#define threadIdx (cudasim::current->index)
#define blockIdx (cudasim::block_index)
#define blockDim (cudasim::block_size)
#define gridDim (cudasim::grid_size)
#define GLMD_SHARED(type, name, ...) auto& name = cudasim::shared_variable<std::type_identity_t<type __VA_ARGS__>>([] {})
#define GLMD_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(cudasim::dynamic_shared)
#define CUDASIM_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(CUDASIM_HERE) { cudasim::block_barrier({file, line}); }
inline void __threadfence(CUDASIM_HERE) { cudasim::fence({file, line}); }
inline void __syncwarp(unsigned mask = ~0u, CUDASIM_HERE) {
    const char nothing = 0;
    cudasim::exchange(mask, &nothing, 1, cudasim::Collective::sync, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDASIM_HERE) {
    (void)width;
    return cudasim::shuffle(mask, value, cudasim::current->lane ^ unsigned(bits), {file, line});
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDASIM_HERE) {
    (void)width;
    return cudasim::shuffle(mask, value, unsigned(source) & 31, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int p, CUDASIM_HERE) {
    const unsigned char mine = p != 0;
    const unsigned char* slots = cudasim::exchange(mask, &mine, 1, cudasim::Collective::ballot, {file, line});
    unsigned bits = 0;
    for (unsigned i = 0; i < 32; ++i)
        if (mask >> i & 1) bits |= unsigned(slots[i * cudasim::slot_bytes]) << i;
    return bits;
}
inline unsigned atomicInc(unsigned* p, unsigned limit) { return cudasim::atomic_inc(p, limit); }
inline int atomicOr(int* p, int value) { return cudasim::atomic_or(p, value); }

template <class T>
T __ldg(const T* p) { return *p; }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += int(std::int8_t(a >> i)) * int(std::int8_t(b >> i));
    return c;
}
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }

#if defined(__aarch64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
using cudasim_half = __fp16;  // g++ 12 has no _Float16 in C++ there
#else
using cudasim_half = _Float16;
#endif
struct alignas(2) __half {
    cudasim_half value;
};
struct alignas(4) __half2 {
    __half x, y;
};
inline __half __float2half(float f) { return {cudasim_half(f)}; }
inline float __half2float(__half h) { return float(h.value); }
inline __half2 __floats2half2_rn(float a, float b) { return {__float2half(a), __float2half(b)}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
