// The reference: what every other instruction set must compute, in the plainest words. Slow, and never tuned.
#include <math.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"
#include "kernels/half.h"

namespace glmd {
namespace {

/// What is subtracted from a stored quant.
int offset_of(PackFormat format) { return format == PackFormat::q8 ? 128 : format == PackFormat::q4 ? 8 : 0; }

template <bool fine>
void quantize_row(const float* x, std::int64_t cols, int offset, std::uint8_t* tile) {
    const float most = fine ? 127.0f * 128 : 127.0f;
    auto* out = reinterpret_cast<QuantizedGroup<fine, 1>*>(tile);
    for (std::int64_t g = 0; g < cols / 32; ++g) {
        float largest = 0;
        for (int i = 0; i < 32; ++i) largest = fmaxf(largest, fabsf(x[32 * g + i]));
        if (!(largest > 1e-30f)) largest = 0;
        const float inverse = largest > 0 ? most / largest : 0.0f;
        int sum = 0;
        for (int i = 0; i < 32; ++i) {
            const int value = int(lrintf(fmaxf(fminf(x[32 * g + i] * inverse, most), -most)));
            sum += value;
            const int high = fine ? (value + 64) >> 7 : value;
            out[g].q[0][0][i] = std::int8_t(high);
            if (fine) out[g].q[fine][0][i] = std::int8_t(value - 128 * high);
        }
        out[g].scale[0] = largest / most;
        if (offset) out[g].start[0] = -offset * sum;
        else out[g].sum[0] = out[g].scale[0] * float(sum);
    }
}

/// Tiles of this instruction set have one row.
void quantize(const float* x, std::int64_t cols, PackFormat format, bool fine, std::uint8_t* tile, int, int) {
    if (fine) quantize_row<true>(x, cols, offset_of(format), tile);
    else quantize_row<false>(x, cols, offset_of(format), tile);
}

void group_sums(const float* x, std::int64_t cols, float* out, std::int64_t stride) {
    for (std::int64_t g = 0; g < cols / 32; ++g) {
        float sum = 0;
        for (int i = 0; i < 32; ++i) sum += x[32 * g + i];
        out[g * stride] = sum;
    }
}

/// One weight of a panel: scale, q - offset, minimum. See packed.h for the layout.
struct Weight {
    float scale;
    int q;
    float min;
};

Weight weight_at(PackFormat format, const std::uint8_t* group, int row, int col) {
    const auto* halves = reinterpret_cast<const std::uint16_t*>(group);
    const auto* floats = reinterpret_cast<const float*>(group);
    const int byte8 = 64 * (col / 4) + 4 * row + col % 4;
    const int byte4 = 64 * (col / 8) + 4 * row + col % 4;
    const int shift = col % 8 < 4 ? 0 : 4;
    switch (format) {
    case PackFormat::q8: return {half_to_float(halves[row]), int(group[32 + byte8]) - 128, 0};
    case PackFormat::q4: return {half_to_float(halves[row]), ((group[32 + byte4] >> shift) & 15) - 8, 0};
    case PackFormat::q4m: return {half_to_float(halves[row]), (group[64 + byte4] >> shift) & 15, half_to_float(halves[16 + row])};
    case PackFormat::q8m: return {floats[row], int(group[128 + byte8]), floats[16 + row]};
    case PackFormat::f16: return {half_to_float(halves[16 * col + row]), 1, 0};
    case PackFormat::f32: return {floats[16 * col + row], 1, 0};
    }
    return {};
}

void linear_exact(const LinearArgs& a) {
    const std::size_t group_bytes = packed::group_bytes(a.format);
    for (std::int64_t n = 0; n < a.n; ++n) {
        for (std::int64_t o = 16 * a.first_panel; o < 16 * a.last_panel && o < a.rows; ++o) {
            const std::uint8_t* panel = a.weight + std::size_t(o / 16) * packed::panel_bytes(a.format, a.cols);
            float sum = 0;
            for (std::int64_t c = 0; c < a.cols; ++c) {
                const Weight w = weight_at(a.format, panel + std::size_t(c / 32) * group_bytes, int(o % 16), int(c % 32));
                sum += (w.scale * float(w.q) + w.min) * a.x[n * a.cols + c];
            }
            a.out[n * a.rows + o] = a.bias ? sum + a.bias[o] : sum;
        }
    }
}

template <bool fine>
void linear_rows(const LinearArgs& a) {
    const std::size_t group_bytes = packed::group_bytes(a.format);
    for (std::int64_t n = 0; n < a.n; ++n) {
        const auto* x = reinterpret_cast<const QuantizedGroup<fine, 1>*>(a.quantized + std::size_t(n) * quantized_row_bytes(fine, a.cols));
        for (std::int64_t o = 16 * a.first_panel; o < 16 * a.last_panel && o < a.rows; ++o) {
            const std::uint8_t* panel = a.weight + std::size_t(o / 16) * packed::panel_bytes(a.format, a.cols);
            float sum = 0;
            for (std::int64_t g = 0; g < a.cols / 32; ++g) {
                const std::uint8_t* group = panel + std::size_t(g) * group_bytes;
                int dot = 0;
                Weight w{};
                for (int c = 0; c < 32; ++c) {
                    w = weight_at(a.format, group, int(o % 16), c);
                    dot += w.q * (fine ? 128 * x[g].q[0][0][c] + x[g].q[fine][0][c] : x[g].q[0][0][c]);
                }
                sum += float(dot) * (w.scale * x[g].scale[0]);
                if (offset_of(a.format) == 0) sum += w.min * x[g].sum[0];
            }
            a.out[n * a.rows + o] = a.bias ? sum + a.bias[o] : sum;
        }
    }
}

void linear_quantized(const LinearArgs& a) {
    if (a.fine) linear_rows<true>(a);
    else linear_rows<false>(a);
}

float element(const AttentionArgs& a, const std::byte* base, std::size_t index, int slot) {
    if (a.type == KvType::i8) {
        const auto* scales = reinterpret_cast<const float*>(base + std::size_t(a.head_dim) * 32);
        return float(reinterpret_cast<const std::int8_t*>(base)[index]) * scales[slot];
    }
    return a.type == KvType::f16 ? half_to_float(reinterpret_cast<const std::uint16_t*>(base)[index])
                                 : reinterpret_cast<const float*>(base)[index];
}

float key_at(const AttentionArgs& a, int j, int d) {
    if (j < a.prefix_tokens) return a.prefix_keys[j * a.prefix_stride + d];
    j -= a.prefix_tokens;
    return element(a, a.keys + std::size_t(a.blocks[j / 32]) * a.block_stride, std::size_t(d) * 32 + std::size_t(j % 32), j % 32);
}

float value_at(const AttentionArgs& a, int j, int d) {
    if (j < a.prefix_tokens) return a.prefix_values[j * a.prefix_stride + d];
    j -= a.prefix_tokens;
    return element(a, a.values + std::size_t(a.blocks[j / 32]) * a.block_stride, std::size_t(j % 32) * std::size_t(a.head_dim) + std::size_t(d),
                   j % 32);
}

float score(const AttentionArgs& a, const float* q, int j) {
    float sum = 0;
    for (int d = 0; d < a.head_dim; ++d) sum += q[d] * key_at(a, j, d);
    return sum * a.scale;
}

void attention(const AttentionArgs& a) {
    for (int i = 0; i < a.rows * a.heads; ++i) {
        const int row = i / a.heads, head = i % a.heads;
        const int keys = a.prefix_tokens + a.visible[row];
        const float* q = a.q + row * a.row_stride + head * a.head_dim;
        float* out = a.out + row * a.row_stride + head * a.head_dim;
        float largest = -INFINITY;
        for (int j = 0; j < keys; ++j) largest = fmaxf(largest, score(a, q, j));
        float sum = 0;
        for (int d = 0; d < a.head_dim; ++d) out[d] = 0;
        for (int j = 0; j < keys; ++j) {
            const float p = expf(score(a, q, j) - largest);
            sum += p;
            for (int d = 0; d < a.head_dim; ++d) out[d] += p * value_at(a, j, d);
        }
        for (int d = 0; d < a.head_dim; ++d) out[d] /= sum;
    }
}

void layer_norm(float* out, const float* x, const float* weight, const float* bias, std::int64_t n, float eps) {
    double sum = 0, squares = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += double(x[i]);
    const float mean = float(sum / double(n));
    for (std::int64_t i = 0; i < n; ++i) squares += double(x[i] - mean) * double(x[i] - mean);
    const float factor = 1.0f / sqrtf(float(squares / double(n)) + eps);
    for (std::int64_t i = 0; i < n; ++i) {
        const float y = (x[i] - mean) * factor * weight[i];
        out[i] = bias ? y + bias[i] : y;
    }
}

void rms_norm(float* out, const float* x, const float* weight, std::int64_t n, float eps) {
    double squares = 0;
    for (std::int64_t i = 0; i < n; ++i) squares += double(x[i]) * double(x[i]);
    const float factor = 1.0f / sqrtf(float(squares / double(n)) + eps);
    for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

float apply(Function f, float x) {
    switch (f) {
    case Function::silu: return x / (1.0f + expf(-x));
    case Function::gelu_tanh: return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case Function::gelu_erf: return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    }
    return x;
}

void activate(float* out, const float* x, const float* factor, std::int64_t n, Function f) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = factor ? apply(f, x[i]) * factor[i] : apply(f, x[i]);
}

void to_half(const float* x, std::uint16_t* out, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = float_to_half(x[i]);
}

}  // namespace

extern const IsaTable isa_scalar = {"scalar", "scalar",   1,          1,        quantize,   group_sums, linear_exact,
                                    linear_quantized, attention, layer_norm, rms_norm, activate, to_half};

}  // namespace glmd
