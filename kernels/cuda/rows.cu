// Operations that work row by row or number by number. All are bound by memory; none is worth more than plain code.
#include "kernels/cuda/device.cuh"

namespace glmd::cuda {
namespace {

constexpr int threads = 256;

/// Over a block of `threads`; every thread gets it.
GLMD_DEVICE float block_sum(float v) {
    GLMD_SHARED(float, parts, [threads / 32]);
    v = warp_sum(v);
    if (lane() == 0) parts[warp()] = v;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < threads / 32; ++i) sum += parts[i];
    __syncthreads();  // the next sum overwrites them
    return sum;
}

template <bool add>
__global__ void __launch_bounds__(threads) embedding_kernel(float* out, std::int64_t cols, Weights table, const std::int32_t* ids, int* fault) {
    const std::int64_t row = blockIdx.x;
    std::int64_t id = ids[row];
    if (id < 0 || id >= table.rows) {
        if (threadIdx.x == 0) atomicOr(fault, fault_id);
        id = 0;
    }
    for (std::int64_t c = threadIdx.x; c < cols; c += threads) {
        const float value = weight_at(table, id, c);
        float& target = out[row * cols + c];
        target = add ? target + value : value;
    }
}

__global__ void __launch_bounds__(threads) layer_norm_kernel(float* out, const float* x, const float* weight, const float* bias, std::int64_t n, float eps) {
    x += blockIdx.x * n, out += blockIdx.x * n;
    float sum = 0, squares = 0;
    for (std::int64_t i = threadIdx.x; i < n; i += threads) sum += x[i];
    const float mean = block_sum(sum) / float(n);
    for (std::int64_t i = threadIdx.x; i < n; i += threads) squares += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / sqrtf(block_sum(squares) / float(n) + eps);
    for (std::int64_t i = threadIdx.x; i < n; i += threads) {
        const float y = (x[i] - mean) * factor * weight[i];
        out[i] = bias ? y + bias[i] : y;
    }
}

__global__ void __launch_bounds__(threads) rms_norm_kernel(float* out, const float* x, const float* weight, std::int64_t n, float eps) {
    x += blockIdx.x * n, out += blockIdx.x * n;
    float squares = 0;
    for (std::int64_t i = threadIdx.x; i < n; i += threads) squares += x[i] * x[i];
    const float factor = 1.0f / sqrtf(block_sum(squares) / float(n) + eps);
    for (std::int64_t i = threadIdx.x; i < n; i += threads) out[i] = x[i] * factor * weight[i];
}

GLMD_DEVICE std::int64_t global_index() { return std::int64_t(blockIdx.x) * threads + threadIdx.x; }
dim3 blocks_for(std::int64_t n) { return dim3(unsigned((n + threads - 1) / threads)); }

__global__ void __launch_bounds__(threads) residual_kernel(float* out, const float* x, float alpha, const float* y, std::int64_t n) {
    const std::int64_t i = global_index();
    if (i < n) out[i] = alpha * x[i] + y[i];
}

__global__ void __launch_bounds__(threads) rotary_kernel(float* x, std::int64_t rows, std::int64_t cols, int head_dim, Rotary r, const std::int32_t* positions, int* fault) {
    const int half = r.dim / 2, heads = int(cols / head_dim);
    const std::int64_t i = global_index(), row = i / (heads * half);
    if (row >= rows) return;
    const int head = int(i / half % heads), pair = int(i % half);
    std::int64_t position = positions[row];
    if (position < 0 || position >= r.table_rows) {
        if (pair == 0) atomicOr(fault, fault_id);
        position = 0;
    }
    const float* table = r.table + position * r.dim;
    float* at = x + row * cols + head * head_dim + r.offset;
    const bool interleaved = r.pairing == RotaryPairing::interleaved;
    float& a = at[interleaved ? 2 * pair : pair];
    float& b = at[interleaved ? 2 * pair + 1 : pair + half];
    const float cosine = table[2 * pair], sine = table[2 * pair + 1], rotated = a * cosine - b * sine;
    b = b * cosine + a * sine;
    a = rotated;
}

GLMD_DEVICE float apply(Function f, float x) {
    if (f == Function::silu) return x / (1.0f + expf(-x));
    if (f == Function::gelu_tanh) return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
}

__global__ void __launch_bounds__(threads) activation_kernel(float* out, const float* x, std::int64_t rows, std::int64_t n, Function f, Gate gate) {
    const std::int64_t i = global_index(), row = i / n, c = i % n;
    if (row >= rows) return;
    if (gate == Gate::none) {
        out[i] = apply(f, x[i]);
    } else {
        const float first = x[row * 2 * n + c], second = x[row * 2 * n + n + c];
        out[i] = gate == Gate::first ? apply(f, first) * second : first * apply(f, second);
    }
}

__global__ void __launch_bounds__(threads) copy_columns_kernel(float* out, std::int64_t out_cols, const float* x, Activations shape, std::int64_t cols, std::int64_t rows, const std::int32_t* chosen, int* fault) {
    const std::int64_t i = global_index(), row = i / cols, c = i % cols;
    if (row >= rows) return;
    std::int64_t from = chosen ? chosen[row] : row;
    if (from < 0 || from >= shape.rows) {
        atomicOr(fault, fault_id);
        from = 0;
    }
    out[row * out_cols + c] = x[from * shape.cols + c];
}

}  // namespace

void embedding(const Queue& q, Activations out, const Matrix& table, const std::int32_t* ids, bool add) {
    if (out.rows == 0) return;
    launch(add ? embedding_kernel<true> : embedding_kernel<false>, dim3(unsigned(out.rows)), threads, 0, q, out.data, out.cols, view(table), ids, q.fault);
}
void layer_norm(const Queue& q, Activations out, Activations x, Vector weight, Vector bias, float eps) {
    if (x.rows > 0) launch(layer_norm_kernel, dim3(unsigned(x.rows)), threads, 0, q, out.data, x.data, weight.data, bias.data, x.cols, eps);
}
void rms_norm(const Queue& q, Activations out, Activations x, Vector weight, float eps) {
    if (x.rows > 0) launch(rms_norm_kernel, dim3(unsigned(x.rows)), threads, 0, q, out.data, x.data, weight.data, x.cols, eps);
}
void residual(const Queue& q, Activations out, Activations x, float alpha, Activations y) {
    const std::int64_t n = x.rows * x.cols;
    if (n > 0) launch(residual_kernel, blocks_for(n), threads, 0, q, out.data, x.data, alpha, y.data, n);
}
void rotary(const Queue& q, Activations x, int head_dim, const Rotary& r, const std::int32_t* positions) {
    const std::int64_t n = x.rows * (x.cols / head_dim) * (r.dim / 2);
    if (n > 0) launch(rotary_kernel, blocks_for(n), threads, 0, q, x.data, x.rows, x.cols, head_dim, r, positions, q.fault);
}
void activation(const Queue& q, Activations out, Activations x, Function function, Gate gate) {
    const std::int64_t n = out.rows * out.cols;
    if (n > 0) launch(activation_kernel, blocks_for(n), threads, 0, q, out.data, x.data, out.rows, out.cols, function, gate);
}
void copy_columns(const Queue& q, Activations out, std::int64_t to, Activations x, std::int64_t from, std::int64_t cols, const std::int32_t* rows) {
    const std::int64_t n = out.rows * cols;
    if (n > 0) launch(copy_columns_kernel, blocks_for(n), threads, 0, q, out.data + to, out.cols, x.data + from, x, cols, out.rows, rows, q.fault);
}

}  // namespace glmd::cuda
