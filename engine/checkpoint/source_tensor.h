#pragma once
// A tensor as some checkpoint stores it: row-major, little endian, bytes that live in a mapped file.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace glmd {

enum class SourceType : std::uint8_t { f32, f16, bf16, i8, u8, i64 };

constexpr std::size_t bytes_of(SourceType type) {
    switch (type) {
        case SourceType::f32: return 4;
        case SourceType::f16:
        case SourceType::bf16: return 2;
        case SourceType::i8:
        case SourceType::u8: return 1;
        case SourceType::i64: return 8;
    }
    return 0;
}

struct SourceTensor {
    std::string name;
    SourceType type = SourceType::f32;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> data;
};

/// Bytes of a tensor; nothing when a dimension is negative or the product overflows.
inline std::optional<std::size_t> tensor_bytes(SourceType type, std::span<const std::int64_t> shape) {
    std::size_t bytes = bytes_of(type);
    for (const auto extent : shape)
        if (extent < 0 || __builtin_mul_overflow(bytes, static_cast<std::size_t>(extent), &bytes)) return {};
    return bytes;
}

}  // namespace glmd
