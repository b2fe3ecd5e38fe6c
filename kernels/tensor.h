#pragma once
// The types that cross the kernels' border: element types of stored weights, packed matrices, activations.
// Pointers here are *backend* pointers: on a GPU they must not be read by the host.
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

namespace glmd {

/// A failed kernel call, an exhausted device, a broken promise of the backend.
struct BackendError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The device doesn't answer any more, for this process at least: only ending it helps.
struct DeviceLost : BackendError {
    using BackendError::BackendError;
};

/// How weights are stored in a checkpoint. The quantized ones are GGML's block formats (blocks of 32, K-quants of 256).
enum class DType : std::uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k };

/// Elements per block and bytes per block of a stored type (1 element for f32/f16/bf16).
struct DTypeTraits {
    const char* name;
    int block;
    int bytes;
};
const DTypeTraits& traits(DType type);

/// Bytes of one row of `cols` elements; throws BackendError when cols isn't a multiple of the block.
std::size_t row_bytes(DType type, std::int64_t cols);

/// Widens one stored row to float. `src` may be unaligned.
void dequantize_row(DType type, const std::byte* src, std::span<float> out);

/// How weights are stored for the kernels; cpu/packed.h explains the layouts.
enum class PackFormat : std::uint8_t {
    f32,   // float
    f16,   // IEEE half
    q8,    // 8-bit integers, groups of 32, fp16 scale (Q8_0)
    q4,    // 4-bit, groups of 32, fp16 scale, value = scale * (q - 8)  (Q4_0)
    q4m,   // 4-bit, groups of 32, fp16 scale and minimum, value = scale * q + min  (Q4_1, Q4_K)
    q8m,   // 8-bit unsigned, groups of 32, scale and minimum (Q5_x, Q5_K)
};

/// A packed weight matrix, y = W x, [rows = outputs, cols = inputs]. Doesn't own its memory.
struct Matrix {
    PackFormat format = PackFormat::f32;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    const std::byte* data = nullptr;
    std::size_t bytes = 0;
    explicit operator bool() const { return data != nullptr; }
};

/// Float vector of weights (norms, biases) in backend memory.
struct Vector {
    const float* data = nullptr;
    std::int64_t size = 0;
    explicit operator bool() const { return data != nullptr; }
};

/// Activations [rows, cols], row-major, contiguous, float, in backend memory.
struct Activations {
    float* data = nullptr;
    std::int64_t rows = 0;
    std::int64_t cols = 0;
    Activations slice(std::int64_t first, std::int64_t count) const { return {data + first * cols, count, cols}; }
};

}  // namespace glmd
