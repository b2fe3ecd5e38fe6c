// Packing and unpacking, plain code: weights are packed once, and only embeddings are unpacked.
#include "kernels/cpu/packed.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/half.h"
#include "kernels/quant_group.h"

namespace glmd::packed {
namespace {

bool is_plain(PackFormat format) { return format == PackFormat::f32 || format == PackFormat::f16; }
bool has_minimum(PackFormat format) { return format == PackFormat::q4m || format == PackFormat::q8m; }
bool is_nibbles(PackFormat format) { return format == PackFormat::q4 || format == PackFormat::q4m; }
std::size_t scale_bytes(PackFormat format) { return format == PackFormat::q8m ? 4 : 2; }
std::size_t quants_at(PackFormat format) { return panel_rows * scale_bytes(format) * (has_minimum(format) ? 2 : 1); }

void put_scale(PackFormat format, std::uint8_t* scales, int row, float value) {
    if (format == PackFormat::q8m) {
        std::memcpy(scales + 4 * row, &value, 4);
    } else {
        const std::uint16_t half = float_to_half(value);
        std::memcpy(scales + 2 * row, &half, 2);
    }
}

float get_scale(PackFormat format, const std::uint8_t* scales, int row) {
    if (format == PackFormat::q8m) {
        float value;
        std::memcpy(&value, scales + 4 * row, 4);
        return value;
    }
    std::uint16_t half;
    std::memcpy(&half, scales + 2 * row, 2);
    return half_to_float(half);
}

}  // namespace

std::size_t bytes(PackFormat format, std::int64_t rows, std::int64_t cols) {
    if (rows < 0 || cols < 0) throw BackendError("a matrix can't have negative size");
    if (!is_plain(format) && cols % group_cols != 0) throw BackendError("quantized columns must be a multiple of 32");
    return std::size_t((rows + panel_rows - 1) / panel_rows) * panel_bytes(format, cols);
}

void pack(DType type, const std::byte* source, std::int64_t rows, std::int64_t cols, std::span<std::byte> out) {
    const PackFormat format = pack_format_for(type);
    if (out.size() != bytes(format, rows, cols)) throw BackendError("pack: the target has the wrong size");
    std::memset(out.data(), 0, out.size());
    const std::size_t stored = row_bytes(type, cols);
    std::vector<float> widened(is_plain(format) ? std::size_t(cols) : 0);
    for (std::int64_t row = 0; row < rows; ++row) {
        const std::byte* from = source + std::size_t(row) * stored;
        auto* panel = reinterpret_cast<std::uint8_t*>(out.data()) + std::size_t(row / panel_rows) * panel_bytes(format, cols);
        const int r = int(row % panel_rows);
        if (is_plain(format)) {
            dequantize_row(type, from, widened);
            for (std::int64_t c = 0; c < cols; ++c) {
                const std::size_t at = std::size_t(c) * panel_rows + std::size_t(r);
                if (format == PackFormat::f32) {
                    std::memcpy(panel + 4 * at, &widened[std::size_t(c)], 4);
                } else {
                    const std::uint16_t half = float_to_half(widened[std::size_t(c)]);
                    std::memcpy(panel + 2 * at, &half, 2);
                }
            }
            continue;
        }
        for (std::int64_t g = 0; g < cols / group_cols; ++g) {
            std::uint8_t* group = panel + std::size_t(g) * group_bytes(format);
            std::uint8_t* quants = group + quants_at(format);
            QuantGroup values;
            read_group(type, from, g, values);
            put_scale(format, group, r, values.scale);
            if (has_minimum(format)) put_scale(format, group + panel_rows * scale_bytes(format), r, values.min);
            for (int c = 0; c < group_cols; ++c) {
                if (is_nibbles(format)) {
                    quants[64 * (c / 8) + 4 * r + c % 4] |= std::uint8_t(values.q[c] << (c % 8 < 4 ? 0 : 4));
                } else {
                    quants[64 * (c / 4) + 4 * r + c % 4] = values.q[c];
                }
            }
        }
    }
}

void unpack_row(const Matrix& matrix, std::int64_t row, float* out) {
    const PackFormat format = matrix.format;
    const auto* panel = reinterpret_cast<const std::uint8_t*>(matrix.data) +
                        std::size_t(row / panel_rows) * panel_bytes(format, matrix.cols);
    const int r = int(row % panel_rows);
    if (is_plain(format)) {
        for (std::int64_t c = 0; c < matrix.cols; ++c) {
            const std::size_t at = std::size_t(c) * panel_rows + std::size_t(r);
            if (format == PackFormat::f32) {
                std::memcpy(out + c, panel + 4 * at, 4);
            } else {
                std::uint16_t half;
                std::memcpy(&half, panel + 2 * at, 2);
                out[c] = half_to_float(half);
            }
        }
        return;
    }
    const int offset = format == PackFormat::q8 ? 128 : format == PackFormat::q4 ? 8 : 0;
    for (std::int64_t g = 0; g < matrix.cols / group_cols; ++g) {
        const std::uint8_t* group = panel + std::size_t(g) * group_bytes(format);
        const std::uint8_t* quants = group + quants_at(format);
        const float scale = get_scale(format, group, r);
        const float min = has_minimum(format) ? get_scale(format, group + panel_rows * scale_bytes(format), r) : 0.0f;
        for (int c = 0; c < group_cols; ++c) {
            int q;
            if (is_nibbles(format)) {
                const int byte = quants[64 * (c / 8) + 4 * r + c % 4];
                q = c % 8 < 4 ? byte & 15 : byte >> 4;
            } else {
                q = quants[64 * (c / 4) + 4 * r + c % 4];
            }
            out[32 * g + c] = scale * float(q - offset) + min;
        }
    }
}

}  // namespace glmd::packed
