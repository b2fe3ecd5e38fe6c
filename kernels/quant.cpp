// GGML's block formats, read exactly. Nothing here is fast: a weight passes through once, when it's packed.
// Everything but q6_k (whose scales cover 16 elements) is read through QuantGroup.
#include "kernels/quant_group.h"

#include <cstring>

#include "kernels/half.h"

namespace glmd {
namespace {

constexpr DTypeTraits all_traits[] = {
    {"f32", 1, 4},    {"f16", 1, 2},    {"bf16", 1, 2},   {"q8_0", 32, 34},   {"q4_0", 32, 18},  {"q4_1", 32, 20},
    {"q5_0", 32, 22}, {"q5_1", 32, 24}, {"q4_k", 256, 144}, {"q5_k", 256, 176}, {"q6_k", 256, 210},
};

std::uint16_t read_u16(const std::uint8_t* p) { return std::uint16_t(p[0] | p[1] << 8); }
float read_half(const std::uint8_t* p) { return half_to_float(read_u16(p)); }

/// 16 bytes: elements 0 … 15 in the low nibbles, 16 … 31 in the high ones.
void split_nibbles(const std::uint8_t* nibbles, std::uint8_t* q) {
    for (int i = 0; i < 16; ++i) {
        q[i] = nibbles[i] & 15;
        q[i + 16] = nibbles[i] >> 4;
    }
}

/// q5_0, q5_1: bit i of a 32-bit word is element i's fifth bit.
void add_fifth_bits(const std::uint8_t* word, std::uint8_t* q) {
    for (int i = 0; i < 32; ++i) q[i] |= std::uint8_t(((word[i / 8] >> (i % 8)) & 1) << 4);
}

/// q4_k, q5_k: eight 6-bit scales and eight 6-bit minimums in 12 bytes.
void k_scale(const std::uint8_t* scales, int group, int& scale, int& min) {
    if (group < 4) {
        scale = scales[group] & 63;
        min = scales[group + 4] & 63;
    } else {
        scale = (scales[group + 4] & 15) | ((scales[group - 4] >> 6) << 4);
        min = (scales[group + 4] >> 4) | ((scales[group] >> 6) << 4);
    }
}

/// q6_k: ql[128] low nibbles, qh[64] high bit pairs, 16 signed scales, one half.
void dequantize_q6_k(const std::uint8_t* block, float* out) {
    const float d = read_half(block + 208);
    for (int half = 0; half < 2; ++half) {
        const std::uint8_t* low = block + 64 * half;
        const std::uint8_t* high = block + 128 + 32 * half;
        const auto* scales = reinterpret_cast<const std::int8_t*>(block + 192 + 8 * half);
        for (int quarter = 0; quarter < 4; ++quarter) {
            for (int i = 0; i < 32; ++i) {
                const int byte = low[i + 32 * (quarter & 1)];
                const int nibble = quarter < 2 ? byte & 15 : byte >> 4;
                const int q = (nibble | ((high[i] >> (2 * quarter)) & 3) << 4) - 32;
                out[128 * half + 32 * quarter + i] = d * float(scales[2 * quarter + i / 16]) * float(q);
            }
        }
    }
}

}  // namespace

const DTypeTraits& traits(DType type) { return all_traits[int(type)]; }

std::size_t row_bytes(DType type, std::int64_t cols) {
    const DTypeTraits& t = traits(type);
    if (cols < 0 || cols % t.block != 0) {
        throw BackendError("a row of " + std::to_string(cols) + " elements isn't a multiple of " + t.name +
                           "'s block of " + std::to_string(t.block));
    }
    return std::size_t(cols / t.block) * std::size_t(t.bytes);
}

void read_group(DType type, const std::byte* row, std::int64_t g, QuantGroup& out) {
    const DTypeTraits& t = traits(type);
    const auto* block = reinterpret_cast<const std::uint8_t*>(row) + (g * 32 / t.block) * t.bytes;
    out.min = 0;
    out.offset = 0;
    switch (type) {
    case DType::q8_0:
        out.scale = read_half(block);
        out.offset = 128;
        for (int i = 0; i < 32; ++i) out.q[i] = std::uint8_t(block[2 + i] ^ 0x80);
        return;
    case DType::q4_0:
        out.scale = read_half(block);
        out.offset = 8;
        split_nibbles(block + 2, out.q);
        return;
    case DType::q4_1:
        out.scale = read_half(block);
        out.min = read_half(block + 2);
        split_nibbles(block + 4, out.q);
        return;
    case DType::q5_0:
        out.scale = read_half(block);
        out.min = -16 * out.scale;
        split_nibbles(block + 6, out.q);
        add_fifth_bits(block + 2, out.q);
        return;
    case DType::q5_1:
        out.scale = read_half(block);
        out.min = read_half(block + 2);
        split_nibbles(block + 8, out.q);
        add_fifth_bits(block + 4, out.q);
        return;
    case DType::q4_k:
    case DType::q5_k: {
        const int group = int(g % 8);
        int scale, min;
        k_scale(block + 4, group, scale, min);
        out.scale = read_half(block) * float(scale);
        out.min = -(read_half(block + 2) * float(min));
        const std::uint8_t* high = block + 16;  // q5_k only
        const std::uint8_t* nibbles = block + (type == DType::q4_k ? 16 : 48) + 32 * (group / 2);
        for (int i = 0; i < 32; ++i) {
            out.q[i] = group % 2 == 0 ? nibbles[i] & 15 : nibbles[i] >> 4;
            if (type == DType::q5_k) out.q[i] |= std::uint8_t(((high[i] >> group) & 1) << 4);
        }
        return;
    }
    default: throw BackendError(std::string("read_group: ") + t.name + " has no groups of 32");
    }
}

void dequantize_row(DType type, const std::byte* src, std::span<float> out) {
    const auto cols = std::int64_t(out.size());
    row_bytes(type, cols);
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(src);
    switch (type) {
    case DType::f32: std::memcpy(out.data(), src, out.size() * 4); return;
    case DType::f16:
        for (std::int64_t i = 0; i < cols; ++i) out[i] = read_half(bytes + 2 * i);
        return;
    case DType::bf16:
        for (std::int64_t i = 0; i < cols; ++i) out[i] = bf16_to_float(read_u16(bytes + 2 * i));
        return;
    case DType::q6_k:
        for (std::int64_t b = 0; b < cols / 256; ++b) dequantize_q6_k(bytes + 210 * b, out.data() + 256 * b);
        return;
    default:
        for (std::int64_t g = 0; g < cols / 32; ++g) {
            QuantGroup group;
            read_group(type, src, g, group);
            for (int i = 0; i < 32; ++i) {
                out[32 * g + i] = group.scale * float(int(group.q[i]) - group.offset) + group.min;
            }
        }
    }
}

PackFormat pack_format_for(DType type) {
    switch (type) {
    case DType::f32:
    case DType::bf16: return PackFormat::f32;
    case DType::f16:
    case DType::q6_k: return PackFormat::f16;
    case DType::q8_0: return PackFormat::q8;
    case DType::q4_0: return PackFormat::q4;
    case DType::q4_1:
    case DType::q4_k: return PackFormat::q4m;
    case DType::q5_0:
    case DType::q5_1:
    case DType::q5_k: return PackFormat::q8m;
    }
    throw BackendError("unknown weight type");
}

}  // namespace glmd
