#pragma once
// How weights lie in a GPU's memory: rows one after another, quants apart from their scales.
//
//           quants, one row                                  scales, one row            value
//     f32   [cols up to a multiple of 4] float                                           x
//     f16   [cols up to a multiple of 8] half                                            x
//     q4    [cols / 32] of 16 bytes                          [cols / 32] half           scale * (q - 8)
//     q4m   [cols / 32] of 16 bytes                          [cols / 32] half2          scale * q + minimum
//     q8    [cols / 32] of 32 bytes, signed                  [cols / 32] half           scale * q
//     q8m   [cols / 32] of 32 bytes, 0 … 31                  [cols / 32] float2         scale * q + minimum
//
// The scales begin at the next multiple of 256 bytes. Byte j of 16 is column j in its low and column j + 16 in its high nibble:
// masked with 0x0f0f0f0f, before and after a shift by 4, a lane's 32-bit words are what mma.m16n8k32 wants of 32 columns, and a
// group, a scale and an mma are the same 32 columns. A warp of a matrix-vector product reads 512 neighbouring bytes.
#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace glmd::cuda {

constexpr bool is_plain(PackFormat f) { return f == PackFormat::f32 || f == PackFormat::f16; }
constexpr bool is_nibbles(PackFormat f) { return f == PackFormat::q4 || f == PackFormat::q4m; }
constexpr bool has_minimum(PackFormat f) { return f == PackFormat::q4m || f == PackFormat::q8m; }
constexpr std::size_t scale_bytes(PackFormat f) {
    return f == PackFormat::q8m ? 8 : f == PackFormat::q4m ? 4 : is_plain(f) ? 0 : 2;
}
/// Elements from one plain row to the next.
constexpr std::int64_t pitch(PackFormat f, std::int64_t cols) {
    return f == PackFormat::f16 ? (cols + 7) / 8 * 8 : f == PackFormat::f32 ? (cols + 3) / 4 * 4 : cols;
}
constexpr std::size_t quant_bytes(PackFormat f, std::int64_t cols) {
    if (f == PackFormat::f32) return 4 * std::size_t(pitch(f, cols));
    if (f == PackFormat::f16) return 2 * std::size_t(pitch(f, cols));
    return std::size_t(cols) / (is_nibbles(f) ? 2 : 1);
}
constexpr std::size_t scales_at(PackFormat f, std::int64_t rows, std::int64_t cols) {
    return (std::size_t(rows) * quant_bytes(f, cols) + 255) / 256 * 256;
}

}  // namespace glmd::cuda
