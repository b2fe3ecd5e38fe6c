// Packing for GPUs, on the host: packed.h draws the layout.
#include "kernels/cuda/packed.h"

#include <cstring>
#include <vector>

#include "kernels/backend.h"
#include "kernels/half.h"
#include "kernels/quant_group.h"

namespace glmd {
namespace {

using namespace cuda;

class CudaLayout final : public WeightLayout {
public:
    std::string pack_id() const override { return "cuda-planes-v1"; }

    PackFormat pack_format(DType type) const override { return pack_format_for(type); }

    std::size_t packed_bytes(PackFormat format, std::int64_t rows, std::int64_t cols) const override {
        if (rows < 0 || cols < 0) throw BackendError("a matrix can't have negative size");
        if (is_plain(format)) return std::size_t(rows) * quant_bytes(format, cols);
        if (cols % 32 != 0) throw BackendError("quantized columns must be a multiple of 32");
        return scales_at(format, rows, cols) + std::size_t(rows) * std::size_t(groups(cols)) * scale_bytes(format);
    }

    void pack(DType type, const std::byte* source, std::int64_t rows, std::int64_t cols, std::span<std::byte> out) const override {
        const PackFormat format = pack_format(type);
        if (out.size() != packed_bytes(format, rows, cols)) throw BackendError("pack: the target has the wrong size");
        std::memset(out.data(), 0, out.size());
        const std::size_t stored = row_bytes(type, cols);
        auto* quants = reinterpret_cast<std::uint8_t*>(out.data());
        std::vector<float> widened(is_plain(format) ? std::size_t(cols) : 0);
        for (std::int64_t row = 0; row < rows; ++row, source += stored, quants += quant_bytes(format, cols)) {
            if (is_plain(format)) {
                dequantize_row(type, source, widened);
                if (format == PackFormat::f32) {
                    std::memcpy(quants, widened.data(), 4 * widened.size());
                } else {
                    for (std::size_t c = 0; c < widened.size(); ++c) {
                        const std::uint16_t half = float_to_half(widened[c]);
                        std::memcpy(quants + 2 * c, &half, 2);
                    }
                }
                continue;
            }
            auto* scales = reinterpret_cast<std::uint8_t*>(out.data()) + scales_at(format, rows, cols) +
                           std::size_t(row) * std::size_t(groups(cols)) * scale_bytes(format);
            for (std::int64_t g = 0; g < cols / 32; ++g) {
                QuantGroup group;
                read_group(type, source, g, group);
                if (format == PackFormat::q8m) {
                    const float pair[2] = {group.scale, group.min};
                    std::memcpy(scales + 8 * g, pair, 8);
                } else {
                    const std::uint16_t pair[2] = {float_to_half(group.scale), float_to_half(group.min)};
                    std::memcpy(scales + scale_bytes(format) * std::size_t(g), pair, scale_bytes(format));
                }
                for (int i = 0; i < 32; ++i) {
                    if (is_nibbles(format)) quants[nibble_index(g, i % 16)] |= std::uint8_t((group.q[i] ^ 8) << (i < 16 ? 0 : 4));
                    else quants[activation_index(g, i)] = std::uint8_t(group.q[i] - group.offset);
                }
            }
        }
    }
};

}  // namespace

const WeightLayout& cuda_weight_layout() {
    static const CudaLayout layout;
    return layout;
}

}  // namespace glmd
