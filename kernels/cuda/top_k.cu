// The k largest of a row: k times the largest of what comes after the last one found. A vocabulary of floats stays in the L2 cache, so
// for the few dozen candidates of sampling that beats sorting.
#include "kernels/cuda/device.cuh"

namespace glmd::cuda {
namespace {

constexpr int threads = 256;

struct Candidate {
    float value;
    int id;
};
/// Larger value first, then the lower id; id -1 is behind all.
GLMD_DEVICE bool before(Candidate a, Candidate b) {
    if (a.id < 0 || b.id < 0) return b.id < 0 && a.id >= 0;
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

__global__ void __launch_bounds__(threads) top_k_kernel(const float* x, int n, int k, std::int32_t* ids, float* values) {
    GLMD_SHARED(Candidate, best_of_warp, [threads / 32]);
    x += std::int64_t(blockIdx.x) * n, ids += std::int64_t(blockIdx.x) * k, values += std::int64_t(blockIdx.x) * k;
    Candidate last{0, -1};
    for (int found = 0; found < k; ++found) {
        Candidate best{0, -1};
        for (int i = int(threadIdx.x); i < n; i += threads) {
            const Candidate c{x[i] != x[i] ? -INFINITY : x[i], i};
            if ((last.id < 0 || before(last, c)) && before(c, best)) best = c;
        }
        for (int o = 16; o > 0; o >>= 1) {
            const Candidate other{__shfl_xor_sync(~0u, best.value, o), __shfl_xor_sync(~0u, best.id, o)};
            if (before(other, best)) best = other;
        }
        if (lane() == 0) best_of_warp[warp()] = best;
        __syncthreads();
        for (int i = 0; i < threads / 32; ++i)
            if (before(best_of_warp[i], best)) best = best_of_warp[i];
        if (threadIdx.x == 0) ids[found] = best.id, values[found] = best.value;
        last = best;
        __syncthreads();  // the next round overwrites them
    }
}

}  // namespace

void top_k(const Queue& q, Activations x, int k, std::int32_t* ids, float* values) {
    if (x.rows > 0) launch(top_k_kernel, dim3(unsigned(x.rows)), threads, 0, q, x.data, int(x.cols), k, ids, values);
}

}  // namespace glmd::cuda
