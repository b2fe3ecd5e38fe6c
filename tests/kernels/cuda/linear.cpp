// linear() on the GPU against the scalar CPU: every stored type, width, precision, and each of the ways that numbers of rows take.
#include "device.h"

namespace glmd::test {
namespace {

void check(Gpu& gpu, DType type, std::int64_t outputs, std::int64_t cols, std::int64_t rows, bool with_bias, std::int64_t narrower = 0) {
    INFO(traits(type).name << " " << outputs << "x" << cols << ", " << rows << " rows");
    const auto stored = random_stored(type, outputs, cols, unsigned(outputs * 31 + cols));
    const auto cpu = backend("scalar", 1);
    const PackFormat format = cpu->pack_format(type);
    std::vector<std::byte> packed(cpu->packed_bytes(format, outputs, cols));
    cpu->pack(type, stored.data(), outputs, cols, packed);
    const Matrix host{format, outputs, cols, packed.data(), packed.size()}, device = gpu.matrix(type, stored, outputs, cols);
    Floats x = random_floats(std::size_t(rows * (cols - narrower)), 3), expected(std::size_t(rows * outputs));
    const Floats bias = with_bias ? random_floats(std::size_t(outputs), 5) : Floats{};
    const Activations in = gpu.put(x, cols - narrower), out = gpu.room(rows, outputs);
    const bool plain = format == PackFormat::f32 || format == PackFormat::f16;
    for (const Precision precision : {Precision::exact, Precision::fine, Precision::fast}) {
        INFO(name(precision));
        cpu->linear(activations(expected, outputs), activations(x, cols - narrower), host, with_bias ? vector(bias) : Vector{}, precision);
        gpu->linear(out, in, device, with_bias ? gpu.vector(bias) : Vector{}, precision);
        // 8-bit activations mean the same on both; with many rows the GPU takes halves instead, two in fine precision.
        const bool halves = precision != Precision::exact && format != PackFormat::f32 && (plain ? rows > 8 : rows > 64);
        const double tolerance = !halves ? 1e-5 : precision == Precision::fine ? (plain ? 1e-5 : 1e-3) : plain ? 1e-3 : 3e-2;
        CHECK(difference(gpu.get(out), expected) <= tolerance);
    }
}

}  // namespace

TEST_CASE("cuda: linear, every type", "[cudasim]") {
    each_schedule([] {
        Gpu gpu;
        for (const DType type : all_types) {
            const std::int64_t block = traits(type).block, cols = block == 1 ? 126 : block == 32 ? 160 : 256;
            for (const std::int64_t rows : {1, 3, 70}) check(gpu, type, 21, cols, rows, true);
        }
    });
}

TEST_CASE("cuda: linear, every way that rows take", "[cudasim]") {
    each_schedule([] {
        Gpu gpu;
        for (const DType type : {DType::f32, DType::f16, DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_1}) {
            const std::int64_t cols = traits(type).block == 1 ? 60 : 96;
            for (const std::int64_t rows : {2, 4, 8, 9, 16, 17, 33, 64, 65}) check(gpu, type, 16, cols, rows, false);
        }
    });
}

TEST_CASE("cuda: linear, widths and heights", "[cudasim]") {
    Gpu gpu;
    for (const DType type : {DType::f32, DType::f16, DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_1})
        for (const std::int64_t rows : {1, 5}) {
            for (const std::int64_t outputs : {1, 4, 17, 67}) check(gpu, type, outputs, 64, rows, true);
            for (const std::int64_t cols : {32, 128, 1152, 4096}) check(gpu, type, 5, cols, rows, false);
            if (traits(type).block == 32) check(gpu, type, 9, 160, rows, true, 31);
            else check(gpu, type, 9, 37, rows, true);
        }
    check(gpu, DType::q4_0, 9, 160, 70, true, 31);
}

TEST_CASE("cuda: extreme quants and activations", "[cudasim]") {
    Gpu gpu;
    std::vector<std::byte> stored(34 * 16);
    for (int r = 0; r < 16; ++r) {
        stored[std::size_t(34 * r + 1)] = std::byte(0x3c);  // scale 1
        for (int i = 0; i < 32; ++i) stored[std::size_t(34 * r + 2 + i)] = std::byte(r % 2 ? 127 : 128);
    }
    const Matrix w = gpu.matrix(DType::q8_0, stored, 16, 32);
    for (const float size : {127.0f, -127.0f, 1e30f, 1e-35f})
        for (const std::int64_t rows : {1, 2, 70})
            for (const Precision precision : {Precision::fast, Precision::fine}) {
                INFO(size << " " << rows << " " << name(precision));
                const Activations x = gpu.put(Floats(std::size_t(32 * rows), size), 32), y = gpu.room(rows, 16);
                gpu->linear(y, x, w, {}, precision);
                const Floats out = gpu.get(y);
                if (std::fabs(size) < 1e-30f) {
                    CHECK(std::fabs(out[1]) <= 32 * 127 * 1e-34f);
                } else {
                    CHECK(out[1] == Approx(32.0f * 127 * size).epsilon(5e-4));
                    CHECK(out[std::size_t(16 * rows - 2)] == Approx(-32.0f * 128 * size).epsilon(5e-4));
                }
            }
}

TEST_CASE("cuda: linear refuses wrong shapes", "[cudasim]") {
    Gpu gpu;
    const Matrix w = gpu.matrix(DType::f32, random_stored(DType::f32, 8, 12, 1), 8, 12);
    CHECK_THROWS_AS(gpu->linear(gpu.room(2, 7), gpu.room(2, 12), w, {}, Precision::exact), BackendError);
    CHECK_THROWS_AS(gpu->linear(gpu.room(2, 8), gpu.room(2, 11), w, {}, Precision::exact), BackendError);
}

}  // namespace glmd::test
