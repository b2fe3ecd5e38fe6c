// What this GPU itself reaches, whatever of ours runs on it: bytes a second that a copy reads and writes, and cuBLAS in halves on
// ChatGLM-6B's largest product. One line of JSON.
#include <cublas_v2.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

void check(cudaError_t error) {
    if (error == cudaSuccess) return;
    std::printf("{\"error\": \"%s\"}\n", cudaGetErrorString(error));
    std::exit(1);
}

/// The median of nine, in seconds, of f() in the default stream.
template <class F>
double seconds_of(const F& f) {
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin));
    check(cudaEventCreate(&end));
    std::vector<float> times;
    for (int i = 0; i < 11; ++i) {
        check(cudaEventRecord(begin));
        f();
        check(cudaEventRecord(end));
        check(cudaEventSynchronize(end));
        float ms = 0;
        check(cudaEventElapsedTime(&ms, begin, end));
        if (i > 1) times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    return times[4] * 1e-3;
}

}  // namespace

int main() {
    cudaDeviceProp p;
    check(cudaGetDeviceProperties(&p, 0));
    std::size_t free_bytes = 0, total = 0;
    check(cudaMemGetInfo(&free_bytes, &total));
    const std::size_t bytes = std::min<std::size_t>(std::size_t(512) << 20, free_bytes / 8);  // far more than any cache holds
    void *from, *to;
    check(cudaMalloc(&from, bytes));
    check(cudaMalloc(&to, bytes));
    check(cudaMemset(from, 1, bytes));
    const double copy = 2.0 * double(bytes) / seconds_of([&] { check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice)); });
    check(cudaFree(from));
    check(cudaFree(to));

    const int m = 16384, n = 2048, k = 4096;  // outputs, prompt's rows, inputs
    __half *w, *x, *y;
    check(cudaMalloc(&w, std::size_t(m) * k * 2));
    check(cudaMalloc(&x, std::size_t(n) * k * 2));
    check(cudaMalloc(&y, std::size_t(m) * n * 2));
    check(cudaMemset(w, 0x11, std::size_t(m) * k * 2));
    check(cudaMemset(x, 0x22, std::size_t(n) * k * 2));
    cublasHandle_t handle;
    if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return std::printf("{\"error\": \"cuBLAS doesn't start\"}\n"), 1;
    const float one = 1, zero = 0;
    const double gemm = seconds_of([&] {
        cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one, w, CUDA_R_16F, k, x, CUDA_R_16F, k, &zero, y, CUDA_R_16F, m,
                     CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    });
    check(cudaGetLastError());
    std::printf("{\"gpu\": \"%s\", \"compute\": %d, \"memory\": %zu, \"copy_bytes_per_s\": %.4g, \"half_flops\": %.4g}\n", p.name,
                10 * p.major + p.minor, total, copy, 2.0 * m * n * k / gemm);
    return 0;
}
