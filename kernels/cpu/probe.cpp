// Loops that do nothing but read, or nothing but multiply. Multiplying is written in assembler: a compiler sees that the
// products are the same in every turn. Functions with a target of their own use no STL, for the reason that isa.h gives.
#include "kernels/probe.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>

#include "kernels/backend.h"

namespace glmd {
namespace {

constexpr std::size_t piece = 4 * HugePages::page;
constexpr double memory_s = 0.2, int8_s = 0.05;

/// Calls of work(thread) a second, all threads together.
template <class F>
double calls_per_s(int threads, double seconds, const F& work) {
    std::vector<double> rates(std::size_t(threads), 0.0);
    std::atomic<int> ready{0};
    const auto run = [&](int t) {
        for (++ready; ready < threads;) std::this_thread::yield();
        const auto begin = std::chrono::steady_clock::now();
        for (int calls = 1;; ++calls) {
            work(t);
            const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
            rates[std::size_t(t)] = calls / took;
            if (took >= seconds) return;
        }
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(run, t);
    run(0);
    for (std::thread& other : others) other.join();
    double all = 0;
    for (const double rate : rates) all += rate;
    return all;
}

// Reading: four streams, one in each huge page of a piece, two vectors of each at a time.

typedef std::uint64_t V16 __attribute__((vector_size(16), may_alias));

template <class V>
__attribute__((always_inline)) inline void read_streams(const void* memory) {
    constexpr std::size_t stream = HugePages::page / sizeof(V);
    const V* at = static_cast<const V*>(memory);
    V a[4] = {}, b[4] = {};
    for (std::size_t i = 0; i < stream; i += 2) {
#pragma GCC unroll 4
        for (std::size_t s = 0; s < 4; ++s) {
            a[s] ^= at[s * stream + i];
            b[s] ^= at[s * stream + i + 1];
        }
    }
    volatile std::uint64_t sink = 0;
    for (int s = 0; s < 4; ++s) sink = sink ^ a[s][0] ^ b[s][1];
}

void read_plain(const void* memory) { read_streams<V16>(memory); }

// Multiplying: each loop keeps more sums than the instruction has cycles of latency, in registers named here, since a compiler
// may keep them in memory. What is in the registers doesn't matter.

constexpr int turns = 20000;

struct Loop {
    const char* name;
    void (*run)();
    double macs;  // of one run
};

void multiply_scalar() {
    std::int32_t sum = 0, x = 3;
    for (int i = 0; i < turns; ++i) {
        asm volatile("" : "+r"(x));
        sum += x * x;
    }
    volatile std::int32_t sink = sum;
    (void)sink;
}

#if defined(__x86_64__)

typedef std::uint64_t V32 __attribute__((vector_size(32), may_alias));
typedef std::uint64_t V64 __attribute__((vector_size(64), may_alias));

__attribute__((target("avx2"))) void read_avx2(const void* memory) { read_streams<V32>(memory); }
__attribute__((target("avx512f"))) void read_avx512(const void* memory) { read_streams<V64>(memory); }

void (*best_read())(const void*) {
    return __builtin_cpu_supports("avx512f") ? read_avx512 : __builtin_cpu_supports("avx2") ? read_avx2 : read_plain;
}

#define CLOBBERED "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13"

void multiply_amx() {
    struct alignas(64) {
        std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
        std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("ldtilecfg %0" : : "m"(config));
    asm volatile("tilezero %tmm4; tilezero %tmm5; tilezero %tmm6; tilezero %tmm7");
    for (int i = 0; i < turns / 16; ++i)
        asm volatile("tdpbusd %tmm6, %tmm4, %tmm0; tdpbusd %tmm7, %tmm4, %tmm1; tdpbusd %tmm6, %tmm5, %tmm2; tdpbusd %tmm7, %tmm5, %tmm3");
    asm volatile("tilerelease");
}

void multiply_avx512vnni() {
    for (int i = 0; i < turns; ++i)
        asm volatile(".irp r,1,2,3,4,5,6,7,8,9,10,11,12\n\tvpdpbusd %%zmm0, %%zmm0, %%zmm\\r\n\t.endr" : : : CLOBBERED);
    asm volatile("vzeroupper");
}

void multiply_avxvnni() {
    for (int i = 0; i < turns; ++i)
        asm volatile(".irp r,1,2,3,4,5,6,7,8,9,10,11,12\n\t%{vex%} vpdpbusd %%ymm0, %%ymm0, %%ymm\\r\n\t.endr" : : : CLOBBERED);
    asm volatile("vzeroupper");
}

void multiply_avx2() {
    for (int i = 0; i < turns; ++i)
        asm volatile(".irp r,1,2,3,4,5,6,7,8,9,10,11,12\n\tvpmaddubsw %%ymm0, %%ymm0, %%ymm13\n\tvpmaddwd %%ymm0, %%ymm13, %%ymm13\n\t"
                     "vpaddd %%ymm13, %%ymm\\r, %%ymm\\r\n\t.endr" : : : CLOBBERED);
    asm volatile("vzeroupper");
}

const Loop all_loops[] = {{"avx512amx", multiply_amx, turns / 16 * 4.0 * 16 * 16 * 64},
                          {"avx512vnni", multiply_avx512vnni, turns * 12.0 * 64},
                          {"avxvnni", multiply_avxvnni, turns * 12.0 * 32},
                          {"avx2", multiply_avx2, turns * 12.0 * 32},
                          {"scalar", multiply_scalar, turns}};

#elif defined(__aarch64__)

void (*best_read())(const void*) { return read_plain; }

#define CLOBBERED "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24"

__attribute__((target("arch=armv8.2-a+i8mm"))) void multiply_neoni8mm() {
    for (int i = 0; i < turns; ++i)
        asm volatile(".irp r,1,2,3,4,5,6,7,16,17,18,19,20,21,22,23,24\n\tsmmla v\\r\\().4s, v0.16b, v0.16b\n\t.endr" : : : CLOBBERED);
}

__attribute__((target("arch=armv8.2-a+dotprod"))) void multiply_neondot() {
    for (int i = 0; i < turns; ++i)
        asm volatile(".irp r,1,2,3,4,5,6,7,16,17,18,19,20,21,22,23,24\n\tsdot v\\r\\().4s, v0.16b, v0.16b\n\t.endr" : : : CLOBBERED);
}

void multiply_neon() {
    for (int i = 0; i < turns; ++i)
        asm volatile(".irp r,1,2,3,4,5,6,7,16\n\tsmull v24.8h, v0.8b, v0.8b\n\tsmlal2 v24.8h, v0.16b, v0.16b\n\tsadalp v\\r\\().4s, v24.8h\n\t.endr"
                     : : : CLOBBERED);
}

const Loop all_loops[] = {{"neoni8mm", multiply_neoni8mm, turns * 16.0 * 32},
                          {"neondot", multiply_neondot, turns * 16.0 * 16},
                          {"neon", multiply_neon, turns * 8.0 * 16},
                          {"scalar", multiply_scalar, turns}};

#else

void (*best_read())(const void*) { return read_plain; }
const Loop all_loops[] = {{"scalar", multiply_scalar, turns}};

#endif

/// Those that this processor can run.
const std::vector<Loop>& loops() {
    static const std::vector<Loop> usable = [] {
        std::vector<Loop> found;
        for (const std::string& isa : cpu_instruction_sets()) {
            for (const Loop& loop : all_loops)
                if (isa == loop.name) found.push_back(loop);
        }
        return found;
    }();
    return usable;
}

/// In whole pieces, one for each thread at least.
std::size_t probe_bytes(int threads, std::size_t most) {
    const std::size_t wanted = std::max<std::size_t>(std::size_t(1) << 30, 4 * last_cache_bytes()), pieces = std::min(wanted, most) / piece;
    return std::max<std::size_t>(pieces, std::size_t(threads)) * piece;
}

}  // namespace

MemoryProbe::MemoryProbe(int threads, std::size_t most) : threads_(std::max(1, threads)), memory_(probe_bytes(threads_, most)), at_(std::size_t(threads_)) {
    if (!memory_.data()) throw BackendError("out of memory: " + std::to_string(bytes()) + " bytes");
    std::memset(memory_.data(), 1, bytes());
    for (std::size_t t = 0; t < at_.size(); ++t) at_[t] = t;
}

double MemoryProbe::bandwidth() {
    const auto read = best_read();
    return double(piece) * calls_per_s(threads_, memory_s, [&](int t) {
        std::size_t& at = at_[std::size_t(t)];
        read(memory_.data() + at * piece);
        at += std::size_t(threads_);
        if (at >= bytes() / piece) at = std::size_t(t);
    });
}

double read_rate(std::span<const std::byte> memory) {
    const auto read = best_read();
    const auto begin = std::chrono::steady_clock::now();
    std::size_t at = 0;
    for (; at + piece <= memory.size(); at += piece) read(memory.data() + at);
    return double(at) / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::size_t last_cache_bytes() { return std::size_t(std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE))); }

std::vector<std::string> int8_loops() {
    std::vector<std::string> names;
    for (const Loop& loop : loops()) names.push_back(loop.name);
    return names;
}

double int8_rate(const std::string& name, int threads) {
    for (const Loop& loop : loops())
        if (name == loop.name) return loop.macs * calls_per_s(std::max(1, threads), int8_s, [&](int) { loop.run(); });
    throw BackendError("this machine can't multiply with " + name);
}

}  // namespace glmd
