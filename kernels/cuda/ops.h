#pragma once
// The operations behind Backend, each a launch or a few in a queue's order: rows.cu, linear.cu, kv.cu, attention.cu, top_k.cu.
// Pointers are device memory. Shapes were checked by cuda_backend.cpp; what only the device can see (ids, positions, slots out of
// range) is bounded there and raises `fault`.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/backend.h"

namespace glmd::cuda {

/// Throws DeviceLost for what no later call survives, BackendError ("insufficient memory: …" where that is it) for the rest.
void check(cudaError_t error, const char* what);

enum Fault : int { fault_id = 1, fault_slot = 2 };

struct Queue {
    cudaStream_t stream;
    int multiprocessors;
    int* fault;
};

// rows.cu
void embedding(const Queue& q, Activations out, const Matrix& table, const std::int32_t* ids, bool add);
void layer_norm(const Queue& q, Activations out, Activations x, Vector weight, Vector bias, float eps);
void rms_norm(const Queue& q, Activations out, Activations x, Vector weight, float eps);
void residual(const Queue& q, Activations out, Activations x, float alpha, Activations y);
void rotary(const Queue& q, Activations x, int head_dim, const Rotary& rotary, const std::int32_t* positions);
void activation(const Queue& q, Activations out, Activations x, Function function, Gate gate);
/// out[r, to + c] = x[rows ? rows[r] : r, from + c]
void copy_columns(const Queue& q, Activations out, std::int64_t to, Activations x, std::int64_t from, std::int64_t cols, const std::int32_t* rows);

// linear.cu
/// Activations of linear() in 8 bits, like q8 weights: x = scale * (128 * high + low), without `low` scale * high. `sums` are scale times
/// the sum of a group. Both [rows, groups].
struct QuantizedRows {
    std::int8_t *high, *low;
    float *scales, *sums;
};
/// Activations in halves, divided by a power of two of their row's own: x = scale * (high + low).
struct HalfRows {
    __half *high, *low;
    float* scales;  // [rows]
};
void quantize(const Queue& q, QuantizedRows out, Activations x, std::int64_t cols, bool fine);
void to_halves(const Queue& q, HalfRows out, Activations x, std::int64_t pitch, bool fine);
/// Up to multiply_rows rows; w is quantized.
inline constexpr int multiply_rows = 64;
void multiply(const Queue& q, Activations out, const QuantizedRows& x, const Matrix& w, Vector bias, bool fine);
/// f32 arithmetic, up to exact_rows rows.
inline constexpr int exact_rows = 8;
void multiply_exact(const Queue& q, Activations out, Activations x, const Matrix& w, Vector bias);
/// Rows [first, first + rows) of w as float or half, `pitch` apart.
void widen(const Queue& q, float* out, const Matrix& w, std::int64_t first, std::int64_t rows, std::int64_t pitch);
void widen(const Queue& q, __half* out, const Matrix& w, std::int64_t first, std::int64_t rows, std::int64_t pitch);
/// out = out * scales[row] + bias; either may be null
void finish(const Queue& q, Activations out, const float* scales, Vector bias);

// kv.cu, attention.cu. A layer of the pool is [block][K then V][kv_head][32 slots][head_dim], in 8 bits followed by [32] float scales.
struct KvLayer {
    std::byte* data;
    std::size_t block_bytes, head_bytes;
    int blocks, kv_heads, head_dim;
    KvType type;
};
void kv_write(const Queue& q, const KvLayer& kv, Activations keys, Activations values, const StepTables& step);
/// Floats of workspace that attention() of these shapes takes.
std::size_t attention_workspace(const Queue& q, const KvLayer& kv, std::int64_t q_cols, const StepTables& step);
/// tickets: [rows * heads] zeros, which it leaves zero.
void attention(const Queue& q, Activations out, Activations query, const KvLayer& kv, const StepTables& step, float scale,
               const AttentionPrefix& prefix, float* workspace, unsigned* tickets);

// top_k.cu
void top_k(const Queue& q, Activations x, int k, std::int32_t* ids, float* values);

}  // namespace glmd::cuda
