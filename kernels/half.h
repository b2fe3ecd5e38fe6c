#pragma once
// IEEE half and bfloat16 in plain integers. `static`, not `inline`: instruction-set files include this, and the linker
// must not pick the AVX-512 build of a function for a machine without it.
#include <cstdint>
#include <cstring>

namespace glmd {

static inline float bits_to_float(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

static inline std::uint32_t float_to_bits(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

static inline float bf16_to_float(std::uint16_t b) { return bits_to_float(std::uint32_t(b) << 16); }

static inline float half_to_float(std::uint16_t h) {
    const std::uint32_t sign = std::uint32_t(h & 0x8000) << 16;
    const std::uint32_t magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00) {  // infinity, NaN (made quiet, as the hardware does)
        const std::uint32_t quiet = magnitude > 0x7c00 ? 0x400000u : 0u;
        return bits_to_float(sign | 0x7f800000u | ((magnitude & 0x3ff) << 13) | quiet);
    }
    if (magnitude >= 0x400) return bits_to_float(sign | ((magnitude << 13) + (112u << 23)));
    const float subnormal = float(magnitude) * 5.9604644775390625e-8f;  // 2^-24
    return bits_to_float(sign | float_to_bits(subnormal));
}

/// Rounds to nearest, ties to even; too large becomes infinity.
static inline std::uint16_t float_to_half(float value) {
    const std::uint32_t bits = float_to_bits(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000;
    std::uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return std::uint16_t(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
    if (magnitude >= 0x47800000) return std::uint16_t(sign | 0x7c00);
    if (magnitude < 0x38800000) {  // subnormal half: adding 0.5 leaves the rounded result in the low bits
        const float shifted = bits_to_float(magnitude) + 0.5f;
        return std::uint16_t(sign | (float_to_bits(shifted) - 0x3f000000));
    }
    magnitude += 0xfff + ((magnitude >> 13) & 1);
    return std::uint16_t(sign | ((magnitude - (112u << 23)) >> 13));
}

}  // namespace glmd
