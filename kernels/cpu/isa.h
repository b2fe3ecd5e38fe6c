#pragma once
// What an instruction set has to provide: a table of functions, chosen once when the backend is made.
// isa_scalar.cpp is the readable reference; the others share vector.inc and only define 16-float vectors for it.
// Files behind this header use no STL and keep all but their table in an anonymous namespace: a template instantiated
// with AVX-512 flags must never be linked into code that runs elsewhere.
#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace glmd {

/// One row of activations quantized in groups of 32:  int8[cols] | float scales[cols/32] | int32 sums[cols/32].
/// The stride is an odd number of cache lines: rows a power of two apart would fight for the same lines of L1.
constexpr std::size_t quantized_stride(std::int64_t cols) {
    const std::size_t lines = (std::size_t(cols) + std::size_t(cols) / 32 * 8 + 63) / 64;
    return (lines | 1) * 64;
}

/// Rows of activations are worked on in tiles: as many of `largest` rows as there are, then one of each smaller power of
/// two that fits. Inside a tile of T rows activations lie in the order in which its kernel reads them.
constexpr int tile_rows(std::int64_t rows_left, int largest) {
    while (rows_left < largest) largest /= 2;
    return largest;
}

/// y = W x + bias for panels [first_panel, last_panel) of W and n rows of x.
struct LinearArgs {
    PackFormat format;
    const std::uint8_t* weight;
    std::int64_t rows, cols;
    std::int64_t first_panel, last_panel;
    const float* x;                 // exact: n rows in tiles of [cols][T]
    const float* sums;              // exact: their sums over groups, in tiles of [cols / 32][T]; null for f32 and f16
    const std::uint8_t* quantized;  // fast: n rows of quantized_stride(cols)
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
    const std::byte* keys;      // block 0 of this layer and KV head; a block is [head_dim][32 slots]
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
    int exact_tile;  // most rows of a tile of linear_exact
    void (*quantize)(const float* x, std::int64_t cols, std::uint8_t* out);
    /// out[g * stride] = sum of group g of one row
    void (*group_sums)(const float* x, std::int64_t cols, float* out, std::int64_t stride);
    void (*linear_exact)(const LinearArgs& args);
    void (*linear_fast)(const LinearArgs& args);  // q8, q4, q4m, q8m only
    void (*attention)(const AttentionArgs& args);
    void (*layer_norm)(float* out, const float* x, const float* weight, const float* bias, std::int64_t n, float eps);
    void (*rms_norm)(float* out, const float* x, const float* weight, std::int64_t n, float eps);
    void (*activate)(float* out, const float* x, const float* factor, std::int64_t n, Function f);  // factor may be null
    void (*to_half)(const float* x, std::uint16_t* out, std::int64_t n);
};

extern const IsaTable isa_scalar, isa_avx2, isa_avx512, isa_avx512vnni, isa_neon, isa_neondot;

/// The tables this machine can run, best first, scalar last; ends with null. detect_*.cpp, chosen by the build.
const IsaTable* const* usable_isas();

}  // namespace glmd
