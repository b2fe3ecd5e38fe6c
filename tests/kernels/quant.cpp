// The block formats against a second reading of GGML's definitions in double, element by element; and packing.
#include "common.h"

#include "kernels/cpu/packed.h"
#include "kernels/half.h"

namespace glmd::test {

namespace {

/// Offsets of the fp16 fields in a block.
std::vector<int> half_fields(DType type) {
    switch (type) {
    case DType::q8_0: case DType::q4_0: case DType::q5_0: return {0};
    case DType::q4_1: case DType::q5_1: case DType::q4_k: case DType::q5_k: return {0, 2};
    case DType::q6_k: return {208};
    case DType::f16: return {0};
    default: return {};
    }
}

double half_at(const std::uint8_t* p) {
    const int bits = p[0] | p[1] << 8;
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

int bit(const std::uint8_t* p, int i) { return p[i / 8] >> (i % 8) & 1; }

/// Element i of a block.
double element(DType type, const std::uint8_t* b, int i) {
    const auto nibble32 = [&](const std::uint8_t* q) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; };
    switch (type) {
    case DType::f32: { float v; std::memcpy(&v, b, 4); return v; }
    case DType::f16: return half_at(b);
    case DType::bf16: { const std::uint32_t bits = std::uint32_t(b[0] | b[1] << 8) << 16; float v; std::memcpy(&v, &bits, 4); return v; }
    case DType::q8_0: return half_at(b) * std::int8_t(b[2 + i]);
    case DType::q4_0: return half_at(b) * (nibble32(b + 2) - 8);
    case DType::q4_1: return half_at(b) * nibble32(b + 4) + half_at(b + 2);
    case DType::q5_0: return half_at(b) * (nibble32(b + 6) + 16 * bit(b + 2, i) - 16);
    case DType::q5_1: return half_at(b) * (nibble32(b + 8) + 16 * bit(b + 4, i)) + half_at(b + 2);
    case DType::q4_k:
    case DType::q5_k: {
        const std::uint8_t* s = b + 4;
        const int j = i / 32;
        const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) + 16 * (s[j - 4] >> 6);
        const int min = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) + 16 * (s[j] >> 6);
        const std::uint8_t* qs = b + (type == DType::q4_k ? 16 : 48);
        const int byte = qs[i / 64 * 32 + i % 32];
        int q = i % 64 < 32 ? byte & 15 : byte >> 4;
        if (type == DType::q5_k) q += 16 * (b[16 + i % 32] >> j & 1);
        return half_at(b) * scale * q - half_at(b + 2) * min;
    }
    case DType::q6_k: {
        const int n = i / 128, in = i % 128, l = in % 32, quarter = in / 32;
        const int low_byte = b[64 * n + l + (quarter % 2 ? 32 : 0)];
        const int low = quarter < 2 ? low_byte & 15 : low_byte >> 4;
        const int high = b[128 + 32 * n + l] >> (2 * quarter) & 3;
        return half_at(b + 208) * std::int8_t(b[192 + i / 16]) * (low + 16 * high - 32);
    }
    }
    return 0;
}

}  // namespace

std::vector<std::byte> random_stored(DType type, std::int64_t rows, std::int64_t cols, unsigned seed) {
    const std::size_t row = row_bytes(type, cols);
    std::vector<std::byte> stored(row * std::size_t(rows));
    std::mt19937 engine(seed);
    if (type == DType::f32) {
        const Floats values = random_floats(std::size_t(rows * cols), seed, 0.1f);
        std::memcpy(stored.data(), values.data(), stored.size());
        return stored;
    }
    for (std::byte& b : stored) b = std::byte(engine());
    const std::size_t block = std::size_t(traits(type).bytes);
    for (std::size_t at = 0; at < stored.size(); at += block) {
        if (type == DType::bf16) {
            const float value = float(engine() % 2001) / 10000.0f - 0.1f;
            std::uint32_t bits;
            std::memcpy(&bits, &value, 4);
            bits >>= 16;
            std::memcpy(stored.data() + at, &bits, 2);
        }
        for (int field : half_fields(type)) {
            const std::uint16_t half = float_to_half(0.001f + float(engine() % 1000) / 40000.0f * (engine() % 2 ? 1 : -1));
            std::memcpy(stored.data() + at + field, &half, 2);
        }
    }
    return stored;
}

TEST_CASE("dequantize_row agrees with the definition of every block format") {
    for (DType type : all_types) {
        INFO(traits(type).name);
        const auto stored = random_stored(type, 3, 512, 7);
        for (int row = 0; row < 3; ++row) {
            const std::byte* source = stored.data() + std::size_t(row) * row_bytes(type, 512);
            Floats widened(512);
            dequantize_row(type, source, widened);
            const int block = traits(type).block;
            double worst = 0;
            for (int i = 0; i < 512; ++i) {
                const auto* at = reinterpret_cast<const std::uint8_t*>(source) + i / block * traits(type).bytes;
                worst = std::max(worst, std::fabs(element(type, at, i % block) - double(widened[std::size_t(i)])));
            }
            CHECK(worst < 1e-6);
        }
    }
}

TEST_CASE("row_bytes refuses parts of a block") {
    CHECK(row_bytes(DType::q4_0, 64) == 36);
    CHECK(row_bytes(DType::q6_k, 512) == 420);
    CHECK(row_bytes(DType::f16, 5) == 10);
    CHECK_THROWS_AS(row_bytes(DType::q4_1, 48), BackendError);
    CHECK_THROWS_AS(row_bytes(DType::q4_k, 32), BackendError);
}

TEST_CASE("halves survive the round trip and round to nearest even") {
    for (int h = 0; h < 0x10000; ++h) {
        if ((h & 0x7c00) == 0x7c00 && (h & 0x3ff)) continue;  // NaN
        if (float_to_half(half_to_float(std::uint16_t(h))) != h) FAIL("half " << h);
    }
    CHECK(float_to_half(65520.0f) == 0x7c00);
    CHECK(float_to_half(1.0f + 1.0f / 2048) == 0x3c00);
    CHECK(float_to_half(1.0f + 3.0f / 2048) == 0x3c02);
    CHECK(float_to_half(2.9802322e-8f) == 0);  // half of the smallest: to even
    CHECK(std::isnan(half_to_float(float_to_half(NAN))));
}

TEST_CASE("packing keeps every value, pads rows with zeros") {
    const auto cpu = backend("scalar", 1);
    for (DType type : all_types) {
        for (std::int64_t rows : {1, 16, 37}) {
            INFO(traits(type).name << " " << rows);
            const auto stored = random_stored(type, rows, 256, 11);
            const PackFormat format = cpu->pack_format(type);
            std::vector<std::byte> bytes(cpu->packed_bytes(format, rows, 256));
            cpu->pack(type, stored.data(), rows, 256, bytes);
            const Matrix matrix{format, rows, 256, bytes.data(), bytes.size()};
            Floats expected(256), actual(256);
            double worst = 0;
            for (std::int64_t r = 0; r < rows; ++r) {
                dequantize_row(type, stored.data() + std::size_t(r) * row_bytes(type, 256), expected);
                packed::unpack_row(matrix, r, actual.data());
                worst = std::max(worst, difference(actual, expected));
            }
            CHECK(worst <= (type == DType::q4_k || type == DType::q6_k ? 1e-3 : 0.0));
        }
    }
}

}  // namespace glmd::test
