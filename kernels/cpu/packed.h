#pragma once
// How weights lie in memory for the CPU.
//
// Outputs are cut into panels of 16 rows, one vector of 16 floats wide; the last panel is filled up with zero rows.
// A panel holds its columns from left to right, so that a kernel walks memory straight ahead:
//
//   f32, f16   [cols][16 rows]                                               any number of columns
//   q8 q4 q4m q8m  [cols / 32] groups:   scales[16] | minimums[16] (*m only) | quants
//
//                  scales       minimums     quants                          bytes per group
//     q8           fp16         -            8 x [16 rows][4 columns] u8     544   value = scale * (q - 128)
//     q4           fp16         -            4 x [16 rows][4 + 4 columns]    288   value = scale * (q - 8)
//     q4m          fp16         fp16         4 x [16 rows][4 + 4 columns]    320   value = scale * q + minimum
//     q8m          f32          f32          8 x [16 rows][4 columns] u8     640   value = scale * q + minimum
//
// 64 bytes of quants are 16 rows x 4 columns: exactly what vpdpbusd multiplies with 4 activations sent to all lanes.
// For 4 bits the low nibbles of load i are columns 8 i … 8 i + 3 and the high nibbles columns 8 i + 4 … 8 i + 7.
// Quants are unsigned because vpdpbusd wants one unsigned side; offsets are paid with the activations' sums.
//
// K-quants: the product of their two scales is rounded to fp16 in q4m (an error of 2^-12 of a scale, far below a
// quantization step) and kept in full in q8m. q6_k has scales over 16 elements and becomes f16.
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/tensor.h"

namespace glmd::packed {

inline constexpr int panel_rows = 16;
inline constexpr int group_cols = 32;

/// Bytes of one group of 16 rows x 32 columns.
constexpr std::size_t group_bytes(PackFormat format) {
    switch (format) {
    case PackFormat::f32: return 2048;
    case PackFormat::f16: return 1024;
    case PackFormat::q8: return 544;
    case PackFormat::q4: return 288;
    case PackFormat::q4m: return 320;
    case PackFormat::q8m: return 640;
    }
    return 0;
}

constexpr std::size_t panel_bytes(PackFormat format, std::int64_t cols) {
    return group_bytes(format) / group_cols * std::size_t(cols);
}

std::size_t bytes(PackFormat format, std::int64_t rows, std::int64_t cols);
void pack(DType type, const std::byte* source, std::int64_t rows, std::int64_t cols, std::span<std::byte> out);
/// Widens one row again: embeddings.
void unpack_row(const Matrix& matrix, std::int64_t row, float* out);

}  // namespace glmd::packed
