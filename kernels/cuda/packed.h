#pragma once
// How weights lie in a GPU's memory: rows one after another, quants apart from their scales.
//
//           quants of one row                        scales of one row    value
//     f32   [cols up to a multiple of 4] float                            x
//     f16   [cols up to a multiple of 8] half                             x
//     q4    [chunks][4 lanes][4 groups] of 4 bytes   [groups] half        scale * q, q in -8 … 7
//     q4m   likewise                                 [groups] half2       scale * (q + 8) + minimum
//     q8    [chunks][2][4 lanes][4 groups] of 4      [groups] half        scale * q
//     q8m   likewise                                 [groups] float2      scale * q + minimum, q in 0 … 31
//
// A group is 32 columns, a chunk four groups; the last chunk is filled up with zeros. A lane's four bytes of a group are columns
// 4 lane … 4 lane + 3 and, in the high nibbles or behind, 16 + 4 lane …: just what mma.m16n8k32 wants from it, so a group, a scale
// and an mma are the same 32 columns, and a lane's 16-byte load serves four of them. Four lanes read a row's 64 neighbouring bytes,
// a warp that multiplies by one vector 512. Nibbles are two's complement: (w << 4) & 0xf0f0f0f0 and w & 0xf0f0f0f0 are the signed
// bytes 16 q. Activations in 8 bits lie like q8 (activation_index).
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
/// Of one row, those that fill up the last chunk included.
constexpr std::int64_t groups(std::int64_t cols) { return (cols + 127) / 128 * 4; }
constexpr std::size_t quant_bytes(PackFormat f, std::int64_t cols) {
    if (f == PackFormat::f32) return 4 * std::size_t(pitch(f, cols));
    if (f == PackFormat::f16) return 2 * std::size_t(pitch(f, cols));
    return std::size_t(groups(cols)) * (is_nibbles(f) ? 16 : 32);
}
/// Byte of a row of q4 that holds columns c and c + 16 of a group, c below 16.
constexpr std::int64_t nibble_index(std::int64_t group, int c) { return group / 4 * 64 + c / 4 * 16 + group % 4 * 4 + c % 4; }
/// Byte of a row of q8 that holds column c of a group.
constexpr std::int64_t activation_index(std::int64_t group, int c) {
    return group / 4 * 128 + c / 16 * 64 + c % 16 / 4 * 16 + group % 4 * 4 + c % 4;
}
constexpr std::size_t scales_at(PackFormat f, std::int64_t rows, std::int64_t cols) {
    return (std::size_t(rows) * quant_bytes(f, cols) + 255) / 256 * 256;
}

}  // namespace glmd::cuda
