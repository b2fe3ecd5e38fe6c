// The emulated machine itself: what CUDA defines it computes, and what a kernel must not do it names.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "cuda_ptx.h"
#include "cuda_runtime.h"
#include "tests/support/races.h"

using namespace cudasim;

namespace {

constexpr int block = 64;

__global__ void reverse(int* out, bool barrier) {
    GLMD_SHARED(int, shared, [block]);
    shared[threadIdx.x] = int(threadIdx.x);
    if (barrier) __syncthreads();
    out[threadIdx.x] = shared[block - 1 - threadIdx.x];
}
__global__ void two_barriers(int* out) {
    if (threadIdx.x < 32) __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ void lost_thread(int* out) {
    if (threadIdx.x == 3) return;
    out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);
}
__global__ void wrong_mask(int* out) { out[threadIdx.x] = __shfl_sync(0xffffu, 1, 0); }
__global__ void mixed(int* out) { out[threadIdx.x] = threadIdx.x % 2 ? __shfl_xor_sync(~0u, 1, 1) : int(__ballot_sync(~0u, 1)); }
__global__ void stuck(int* out) {
    if (threadIdx.x == 0) __syncwarp(3);
    out[threadIdx.x] = 1;
    if (threadIdx.x != 0) __syncthreads();
}
__global__ void copies_left(int* out) {
    GLMD_SHARED(int, shared, [4 * block]);
    glmd::cuda::ptx::copy_16(&shared[4 * threadIdx.x], out, true);
    glmd::cuda::ptx::copy_commit();
}
__global__ void copies(int* out, const int* in, bool wait) {
    GLMD_SHARED(int, shared, [4 * block]);
    glmd::cuda::ptx::copy_16(&shared[4 * threadIdx.x], in + 4 * threadIdx.x, true);
    glmd::cuda::ptx::copy_commit();
    if (wait) glmd::cuda::ptx::copy_wait<0>();
    out[threadIdx.x] = shared[4 * threadIdx.x];
    glmd::cuda::ptx::copy_wait<0>();
}
__global__ void uninitialized(float* out) {
    GLMD_SHARED(float, shared, [block]);
    out[threadIdx.x] = shared[threadIdx.x];
}
/// Sums of two blocks by whichever ends last.
__global__ void last_block(int* parts, unsigned* ticket, int* out, bool fence_before, bool fence_behind) {
    GLMD_SHARED(unsigned, mine, [1]);
    parts[blockIdx.x * block + threadIdx.x] = int(threadIdx.x);
    if (fence_before) __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) mine[0] = atomicInc(ticket, gridDim.x - 1);
    __syncthreads();
    if (mine[0] != gridDim.x - 1) return;
    if (fence_behind) __threadfence();
    out[threadIdx.x] = parts[threadIdx.x] + parts[block + threadIdx.x];
}
__global__ void mma_tile(const std::int8_t* a, const std::int8_t* b, int* c) {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    std::uint32_t x[4], y[2];
    for (unsigned i = 0; i < 4; ++i) std::memcpy(&x[i], a + (g + i % 2 * 8) * 32 + i / 2 * 16 + t * 4, 4);
    for (unsigned i = 0; i < 2; ++i) std::memcpy(&y[i], b + g * 32 + i * 16 + t * 4, 4);
    int d[4] = {};
    glmd::cuda::ptx::mma_m16n8k32_s8(d, x, y);
    for (unsigned i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = d[i];
}

template <class... A>
std::string fault(void (*kernel)(A...), dim3 grid, std::type_identity_t<A>... arguments) {
    try {
        run(grid, block, 0, [&] { kernel(arguments...); });
    } catch (const Error& e) {
        return e.what;
    }
    return "";
}

/// What a child process says that dies of it.
std::string last_words(const std::function<void()>& f) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::dup2(ends[1], 2);
        ::close(ends[0]);
        f();
        ::_exit(0);
    }
    ::close(ends[1]);
    std::string words;
    char buffer[4096];
    for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) words.append(buffer, static_cast<std::size_t>(n));
    ::close(ends[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    return status == 0 ? "" : words;
}

}  // namespace

TEST_CASE("cudasim: faults are named", "[cudasim]") {
    static int out[4 * block];
    for (options.seed = 0; options.seed < 5; ++options.seed) {
        INFO("seed " << options.seed);
        CHECK(fault(two_barriers, 1, out).find("different barriers") != std::string::npos);
        CHECK(fault(lost_thread, 1, out).find("ended") != std::string::npos);
        CHECK(fault(wrong_mask, 1, out).find("mask") != std::string::npos);
        CHECK(fault(mixed, 1, out).find("different collectives") != std::string::npos);
        CHECK(fault(stuck, 1, out) != "");
        CHECK(fault(copies_left, 1, out).find("nobody waited for") != std::string::npos);
        CHECK(fault(reverse, 1, out, true) == "");
        CHECK(out[0] == block - 1);
        static float floats[block];
        CHECK(fault(uninitialized, 1, floats) == "");
        CHECK(floats[5] != floats[5]);
    }
    options.seed = 0;
}

TEST_CASE("cudasim: int8 fragments lie as PTX draws them", "[cudasim]") {
    std::int8_t a[512], b[256];
    int c[128];
    for (int i = 0; i < 512; ++i) a[i] = std::int8_t(i * 37 % 255 - 127);
    for (int i = 0; i < 256; ++i) b[i] = std::int8_t(i * 53 % 251 - 125);
    run(1, 32, 0, [&] { mma_tile(a, b, c); });
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 8; ++j) {
            int sum = 0;
            for (int k = 0; k < 32; ++k) sum += a[i * 32 + k] * b[j * 32 + k];
            CHECK(c[i * 8 + j] == sum);
        }
}

TEST_CASE("cudasim: positive control: a barrier that is missing", "[cudasim]") {
    int wrong = 0;
    for (options.seed = 1; options.seed < 9; ++options.seed) {
        static int out[block];
        CHECK(fault(reverse, 1, out, false) == "");
        for (int i = 0; i < block; ++i)
            if (out[i] != block - 1 - i) {
                ++wrong;
                break;
            }
    }
    options.seed = 0;
    CHECK(wrong == 8);
#ifdef __SANITIZE_THREAD__
    CHECK(races > 0);
    races = 0;
#endif
}

TEST_CASE("cudasim: positive control: a copy that nobody waited for", "[cudasim]") {
    static int in[4 * block], out[block];
    for (int& x : in) x = 7;
    for (const bool wait : {true, false}) {
        int wrong = 0;
        for (options.seed = 0; options.seed < 4; ++options.seed) {
            fault(copies, 1, out, in, wait);
            for (const int x : out) wrong += x != 7;
        }
        CHECK((wrong > 0) == !wait);
    }
    options.seed = 0;
}

TEST_CASE("cudasim: positive control: a fence that is missing between blocks", "[cudasim]") {
    static int parts[2 * block], out[block];
    static unsigned ticket;
    for (const auto& [before, behind] : {std::pair{true, true}, std::pair{false, true}, std::pair{true, false}}) {
        CHECK(fault(last_block, 2, parts, &ticket, out, before, behind) == "");
        CHECK(out[3] == 6);  // here blocks run one after another
        CHECK(ticket == 0);
#ifdef __SANITIZE_THREAD__
        CHECK((races > 0) == !(before && behind));
        races = 0;
#endif
    }
}

TEST_CASE("cudasim: positive control: a read beyond the end", "[cudasim]") {
#ifdef __SANITIZE_ADDRESS__
    const std::string words = last_words([] {
        int* in = nullptr;
        int* out = nullptr;
        cudaMalloc(reinterpret_cast<void**>(&in), block * sizeof(int));
        cudaMalloc(reinterpret_cast<void**>(&out), block * sizeof(int));
        run(1, block, 0, [&] { out[threadIdx.x] = in[threadIdx.x + 1]; });
    });
    CHECK(words.find("heap-buffer-overflow") != std::string::npos);
    const std::string shared = last_words([] {
        run(1, block, 0, [] {
            GLMD_SHARED(int, values, [block]);
            values[threadIdx.x] = values[threadIdx.x + 1];
        });
    });
    CHECK((shared.find("use-after-poison") != std::string::npos || shared.find("out of bounds") != std::string::npos));
#else
    CHECK(last_words([] { ::_exit(1); }).empty());  // the address sanitizer's build looks for it
#endif
}

TEST_CASE("cudasim: streams are as late as may be, graphs keep their arguments", "[cudasim]") {
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    int source = 1, target = 0;
    cudaMemcpyAsync(&target, &source, sizeof source, cudaMemcpyHostToDevice, stream);
    CHECK(target == 0);
    source = 2;
    cudaStreamSynchronize(stream);
    CHECK(target == 2);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    cudaMemcpyAsync(&target, &source, sizeof source, cudaMemcpyHostToDevice, stream);
    void* p;
    CHECK(cudaMalloc(&p, 4) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStreamEndCapture(stream, &graph);
    cudaGraphInstantiate(&exec, graph);
    source = 3;
    cudaStreamSynchronize(stream);
    CHECK(target == 2);
    cudaGraphLaunch(exec, stream);
    cudaStreamSynchronize(stream);
    CHECK(target == 3);
    cudaGraphDestroy(graph);
    cudaGraphExecDestroy(exec);
    cudaStreamDestroy(stream);
}
