// AVX-512 with VNNI and AMX: one instruction multiplies 16 rows of activations with 16 rows of weights over a group.
//
// A panel's group is a tile register as it lies there (rows of 16 outputs x 4 columns), and so are a tile's activations
// ([16 rows][32 columns]). Tiles of 16 rows come here, smaller ones go to VNNI: the integers are the same, and
// what is done with them as well, so a row's bits don't tell which of the two it was.
#include <immintrin.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

#include "kernels/cpu/avx512_lanes.inc"
#include "kernels/cpu/avx512_vnni.inc"
#include "kernels/cpu/vector.inc"

namespace amx {

constexpr int rows = 16;         // of a tile of activations: quantized_tile_rows
constexpr int span_groups = 8, span_panels = 4;  // whose weights are unpacked at once: 16 KB; with the activations they stay in L1

struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t tile_rows[16] = {};
};
enum Tile { high_sums, low_sums, high_activations, low_activations, weights };

// gcc 12's intrinsics don't say that loading reads memory, nor do they take a template's numbers.
template <Tile t>
inline void load_tile(const void* from, std::int64_t stride) {
    asm volatile("tileloadd (%0,%1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(t) : "memory");
}
template <Tile t>
inline void store_tile(void* to) {
    asm volatile("tilestored %%tmm%c2, (%0,%1)" : : "r"(to), "r"(std::int64_t(64)), "i"(t) : "memory");
}
/// The weights are signed where the format has an offset, which is then paid.
template <PackFormat F, Tile sums, Tile activations>
inline void multiply() {
    asm volatile("tilezero %%tmm%c0" : : "i"(sums));
    if constexpr (Group<F>::offset != 0) asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(activations), "i"(weights));
    else asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(activations), "i"(weights));
}

inline void configure() {
    TileConfig config;
    for (const int t : {high_sums, low_sums}) config.row_bytes[t] = 64, config.tile_rows[t] = rows;
    for (const int t : {high_activations, low_activations}) config.row_bytes[t] = 32, config.tile_rows[t] = rows;
    config.row_bytes[weights] = 64, config.tile_rows[weights] = 8;
    asm volatile("ldtilecfg %0" : : "m"(config));
}

/// A group's quants as the 8 rows of a tile.
template <PackFormat F>
inline void unpack(const std::uint8_t* group, std::uint8_t* tile) {
    const std::uint8_t* quants = Group<F>::quants(group);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        _mm512_store_si512(tile + 64 * i, _mm512_sub_epi8(quant_vector<F>(quants, i), _mm512_set1_epi8(char(Group<F>::offset))));
    }
}

/// Products of 16 rows and 16 outputs; fine: of the high parts and of the low parts.
template <bool fine>
struct alignas(64) Dots {
    std::int32_t parts[fine ? 2 : 1][rows][16];
};

template <PackFormat F, bool fine>
inline void dot_tiles(const QuantizedGroup<fine, rows>& x, const std::uint8_t* tile, Dots<fine>& dots) {
    load_tile<high_activations>(x.q[0], 32);
    load_tile<weights>(tile, 64);
    multiply<F, high_sums, high_activations>();
    store_tile<high_sums>(dots.parts[0]);
    if constexpr (fine) {
        load_tile<low_activations>(x.q[1], 32);
        multiply<F, low_sums, low_activations>();
        store_tile<low_sums>(dots.parts[1]);
    }
}

/// sums += dots, scaled: what quantized_groups() does with its own.
template <PackFormat F, bool fine>
inline void add_dots(const QuantizedGroup<fine, rows>& x, const std::uint8_t* group, const Dots<fine>& dots, Lanes (&sums)[rows]) {
    using G = Group<F>;
    const Lanes scale = G::scale(group), min = G::min(group);
#pragma GCC unroll 16
    for (int t = 0; t < rows; ++t) {
        Ints dot = _mm512_load_si512(dots.parts[0][t]);
        if constexpr (fine) dot = add(shift_left<7>(dot), _mm512_load_si512(dots.parts[1][t]));
        sums[t] = fma(to_float(dot), mul(scale, splat(x.scale[t])), sums[t]);
        if constexpr (G::minimum) sums[t] = fma(min, splat(x.sum[t]), sums[t]);
    }
}

/// A span of one panel's weights.
struct Span {
    const std::uint8_t* packed;
    const std::uint8_t (*unpacked)[512];
    int groups;
};

/// Adds a span and one tile to `sums`.
template <PackFormat F, bool fine>
inline void add_span(const Span& span, const QuantizedGroup<fine, rows>* x, Dots<fine> (&dots)[2], Lanes (&sums)[rows]) {
    dot_tiles<F, fine>(x[0], span.unpacked[0], dots[0]);
    for (int g = 0; g < span.groups; ++g) {  // products of the next group while this one's are added
        if (g + 1 < span.groups) dot_tiles<F, fine>(x[g + 1], span.unpacked[g + 1], dots[(g + 1) % 2]);
        add_dots<F, fine>(x[g], span.packed + std::size_t(g) * packed::group_bytes(F), dots[g % 2], sums);
    }
}

/// P panels and all tiles of args.n rows; `partial` keeps their sums from span to span.
template <PackFormat F, bool fine, int P>
void panels_of_tiles(const LinearArgs& args, std::int64_t panel, Lanes (*partial)[span_panels][rows]) {
    alignas(64) std::uint8_t unpacked[P][span_groups][512];
    Dots<fine> dots[2];
    const std::int64_t groups = args.cols / 32, tiles = (args.n + rows - 1) / rows;
    const std::size_t tile_bytes = rows * quantized_row_bytes(fine, args.cols);
    for (std::int64_t first = 0; first < groups; first += span_groups) {
        Span spans[P];
        for (int p = 0; p < P; ++p) {
            spans[p].packed = args.weight + std::size_t(panel + p) * packed::panel_bytes(F, args.cols) + std::size_t(first) * packed::group_bytes(F);
            spans[p].unpacked = unpacked[p];
            spans[p].groups = groups - first < span_groups ? int(groups - first) : span_groups;
            for (int g = 0; g < spans[p].groups; ++g) unpack<F>(spans[p].packed + std::size_t(g) * packed::group_bytes(F), unpacked[p][g]);
        }
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
            const auto* x = reinterpret_cast<const QuantizedGroup<fine, rows>*>(args.quantized + std::size_t(tile) * tile_bytes) + first;
            for (int p = 0; p < P; ++p) {
                Lanes sums[rows];
#pragma GCC unroll 16
                for (int t = 0; t < rows; ++t) sums[t] = first == 0 ? zero() : partial[tile][p][t];
                add_span<F, fine>(spans[p], x, dots, sums);
#pragma GCC unroll 16
                for (int t = 0; t < rows; ++t) {
                    if (first + span_groups < groups) partial[tile][p][t] = sums[t];
                    else store_outputs(args, panel + p, tile * rows + t, sums[t]);
                }
            }
        }
    }
}

constexpr int most_rows = 256;  // of one call: LinearArgs::n as the backend cuts it

template <PackFormat F, bool fine>
void whole_tiles(const LinearArgs& args) {
    Lanes partial[most_rows / rows][span_panels][rows];
    std::int64_t panel = args.first_panel;
    for (; panel + span_panels <= args.last_panel; panel += span_panels) panels_of_tiles<F, fine, span_panels>(args, panel, partial);
    for (; panel < args.last_panel; ++panel) panels_of_tiles<F, fine, 1>(args, panel, partial);
}

template <bool fine>
void whole_tiles_of(const LinearArgs& args) {
    switch (args.format) {
    case PackFormat::f32:
    case PackFormat::f16: return;
    case PackFormat::q8: whole_tiles<PackFormat::q8, fine>(args); return;
    case PackFormat::q4: whole_tiles<PackFormat::q4, fine>(args); return;
    case PackFormat::q4m: whole_tiles<PackFormat::q4m, fine>(args); return;
    case PackFormat::q8m: whole_tiles<PackFormat::q8m, fine>(args); return;
    }
}

void linear_quantized(const LinearArgs& args) {
    LinearArgs rest = args;
    while (rest.n > rows / 2) {
        LinearArgs part = rest;
        part.n = rest.n < most_rows ? rest.n : most_rows;
        if (part.n % rows <= rows / 2) part.n -= part.n % rows;
        configure();  // only here: a thread with tiles in use is dearer to switch
        if (args.fine) whole_tiles_of<true>(part);
        else whole_tiles_of<false>(part);
        _tile_release();
        rest.n -= part.n;
        rest.quantized += std::size_t(part.n) * quantized_row_bytes(args.fine, args.cols);
        rest.out += part.n * args.rows;
    }
    if (rest.n > 0) glmd::linear_quantized(rest);
}

}  // namespace amx

#undef GLMD_LINEAR_QUANTIZED
#define GLMD_LINEAR_QUANTIZED amx::linear_quantized

}  // namespace

extern const IsaTable isa_avx512amx = {"avx512amx", "avx512-amx", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
