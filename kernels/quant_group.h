#pragma once
// One view of all quantized storage types whose scale covers (at least) 32 elements: value = scale * (q - offset) + min.
#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace glmd {

struct QuantGroup {
    std::uint8_t q[32];
    float scale;
    float min;
    int offset;
};

/// Group g (elements 32 g … 32 g + 31) of a stored row. Not for f32, f16, bf16, q6_k.
void read_group(DType type, const std::byte* row, std::int64_t g, QuantGroup& out);

/// What a stored type is packed as, on every device.
PackFormat pack_format_for(DType type);

}  // namespace glmd
