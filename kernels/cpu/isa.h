#pragma once
// What an instruction set has to provide: a table of functions, chosen once when the backend is made.
// isa_scalar.cpp is the readable reference; the others share vector.inc and only define 16-float vectors for it.
// Files behind this header use no STL and keep all but their table in an anonymous namespace: a template instantiated
// with AVX-512 flags must never be linked into code that runs elsewhere.
#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace glmd {

/// Rows of activations are worked on in tiles: as many of `largest` rows as there are, then one of each smaller power of
/// two that fits. Inside a tile of T rows activations lie in the order in which its kernel reads them.
constexpr int tile_rows(std::int64_t rows_left, int largest) {
    while (rows_left < largest) largest /= 2;
    return largest;
}
/// Quantized rows wait for weights: what is left goes into one tile, whose last rows may be nobody's, so that they are read once.
/// rows_left > 0.
constexpr int quantized_tile_for(std::int64_t rows_left, int largest) {
    while (rows_left <= largest / 2) largest /= 2;
    return largest;
}

/// Activations of T rows quantized over 32 columns, x = scale * q, in the order in which linear_quantized reads them.
/// fast: |q| <= 127. fine: q = 128 * q[0] + q[1], |q| <= 127 * 128, about 15 bits.
template <bool fine, int T>
struct QuantizedGroup {
    std::int8_t q[fine ? 2 : 1][T][32];
    float scale[T];
    union {
        std::int32_t start[T];  // formats with an offset: -offset * sum of q
        float sum[T];           // formats with a minimum: scale * sum of q
    };
};

/// One row's share of a tile, which is [cols / 32] groups.
constexpr std::size_t quantized_row_bytes(bool fine, std::int64_t cols) { return std::size_t(cols) / 32 * (fine ? 72 : 40); }

/// y = W x + bias for panels [first_panel, last_panel) of W and n rows of x.
struct LinearArgs {
    PackFormat format;
    const std::uint8_t* weight;
    std::int64_t rows, cols;
    std::int64_t first_panel, last_panel;
    const float* x;                 // exact: n rows in tiles of [cols][T]
    const float* sums;              // exact: their sums over groups, in tiles of [cols / 32][T]; null for f32 and f16
    bool fine;
    const std::uint8_t* quantized;  // fast, fine: n rows in tiles of QuantizedGroup<fine, T>[cols / 32], the last one filled up
    std::int64_t n;
    const float* bias;              // [rows] or null
    float* out;                     // [n, rows]
};

/// Attention of a few rows of one sequence for `heads` heads that share a KV head.
struct AttentionArgs {
    const float* q;       // [rows, heads, head_dim], rows row_stride floats apart
    float* out;           // likewise
    int rows, heads, head_dim;
    std::int64_t row_stride;
    float scale;
    KvType type;
    const std::byte* keys;      // block 0 of this layer and KV head; a block is [head_dim][32 slots]; i8: and [32 slots] float scales
    const std::byte* values;    // likewise; a block is [32 slots][head_dim]
    std::size_t block_stride;   // bytes from a block to the next
    const std::int32_t* blocks; // this sequence's block table
    const int* visible;         // [rows] keys 0 … visible - 1 are seen
    const float* prefix_keys;   // this KV head; tokens prefix_stride floats apart
    const float* prefix_values;
    int prefix_tokens;
    std::int64_t prefix_stride;
};

struct IsaTable {
    const char* name;
    const char* title;
    int exact_tile, quantized_tile;  // most rows of a tile of linear_exact, linear_quantized
    /// Row `row` of a tile of `rows`; `format` is that of the weights.
    void (*quantize)(const float* x, std::int64_t cols, PackFormat format, bool fine, std::uint8_t* tile, int rows, int row);
    /// out[g * stride] = sum of group g of one row
    void (*group_sums)(const float* x, std::int64_t cols, float* out, std::int64_t stride);
    void (*linear_exact)(const LinearArgs& args);
    void (*linear_quantized)(const LinearArgs& args);  // q8, q4, q4m, q8m only
    void (*attention)(const AttentionArgs& args);
    void (*layer_norm)(float* out, const float* x, const float* weight, const float* bias, std::int64_t n, float eps);
    void (*rms_norm)(float* out, const float* x, const float* weight, std::int64_t n, float eps);
    void (*activate)(float* out, const float* x, const float* factor, std::int64_t n, Function f);  // factor may be null
    void (*to_half)(const float* x, std::uint16_t* out, std::int64_t n);
};

extern const IsaTable isa_scalar, isa_avx2, isa_avxvnni, isa_avx512, isa_avx512vnni, isa_avx512amx, isa_neon, isa_neondot, isa_neoni8mm;

/// The tables this machine can run, best first, scalar last; ends with null. detect_*.cpp, chosen by the build.
const IsaTable* const* usable_isas();

}  // namespace glmd
