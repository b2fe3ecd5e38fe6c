// linear() on every instruction set against a plain double reference and the scalar one; a row's bits don't depend on its batch.
#include "../common.h"

namespace glmd::test {
namespace {

struct Packed {
    std::vector<std::byte> bytes;
    Matrix matrix;
    Floats widened;  // [rows, cols]
};

Packed make_weight(Backend& cpu, DType type, std::int64_t rows, std::int64_t cols) {
    const auto stored = random_stored(type, rows, cols, unsigned(rows * 31 + cols));
    const PackFormat format = cpu.pack_format(type);
    Packed p{std::vector<std::byte>(cpu.packed_bytes(format, rows, cols)), {}, Floats(std::size_t(rows * cols))};
    cpu.pack(type, stored.data(), rows, cols, p.bytes);
    p.matrix = {format, rows, cols, p.bytes.data(), p.bytes.size()};
    for (std::int64_t r = 0; r < rows; ++r) {
        dequantize_row(type, stored.data() + std::size_t(r) * row_bytes(type, cols), {p.widened.data() + r * cols, std::size_t(cols)});
    }
    return p;
}

Floats run(Backend& cpu, Floats& x, const Packed& w, const Floats& bias, Precision precision) {
    Floats out(x.size() / std::size_t(w.matrix.cols) * std::size_t(w.matrix.rows), NAN);
    cpu.linear(activations(out, w.matrix.rows), activations(x, w.matrix.cols), w.matrix, bias.empty() ? Vector{} : vector(bias), precision);
    return out;
}

Floats reference(const Floats& x, const Packed& w, const Floats& bias) {
    const auto cols = std::size_t(w.matrix.cols), rows = std::size_t(w.matrix.rows), n = x.size() / cols;
    Floats out(n * rows);
    for (std::size_t r = 0; r < n; ++r) {
        for (std::size_t o = 0; o < rows; ++o) {
            double sum = bias.empty() ? 0.0 : double(bias[o]);
            for (std::size_t c = 0; c < cols; ++c) sum += double(x[r * cols + c]) * double(w.widened[o * cols + c]);
            out[r * rows + o] = float(sum);
        }
    }
    return out;
}

std::vector<std::int64_t> widths(DType type) {
    if (traits(type).block == 1) return {48, 60, 126, 256};
    if (traits(type).block == 32) return {32, 96, 576};
    return {256, 768};
}

}  // namespace

TEST_CASE("linear on every instruction set") {
    const auto scalar = backend("scalar");
    for (const std::string& isa : cpu_instruction_sets()) {
        const auto cpu = backend(isa);
        for (DType type : all_types) {
            for (std::int64_t cols : widths(type)) {
                for (std::int64_t rows : {1, 33, 176}) {
                    INFO(isa << " " << traits(type).name << " " << rows << "x" << cols);
                    const Packed w = make_weight(*cpu, type, rows, cols);
                    Floats x = random_floats(std::size_t(17 * cols), 3);
                    const Floats bias = rows == 33 ? random_floats(std::size_t(rows), 5) : Floats{};
                    const Floats exact = run(*cpu, x, w, bias, Precision::exact);
                    CHECK(difference(exact, reference(x, w, bias)) < (type == DType::q4_k || type == DType::q6_k ? 1e-3 : 2e-5));
                    CHECK(difference(exact, run(*scalar, x, w, bias, Precision::exact)) < 1e-5);
                    const Floats fast = run(*cpu, x, w, bias, Precision::fast);
                    CHECK(difference(fast, run(*scalar, x, w, bias, Precision::fast)) < 1e-5);
                    CHECK(difference(fast, exact) < 0.03);
                    const Floats fine = run(*cpu, x, w, bias, Precision::fine);
                    CHECK(difference(fine, run(*scalar, x, w, bias, Precision::fine)) < 1e-5);
                    CHECK(difference(fine, exact) < 2e-4);
                }
            }
        }
    }
}

TEST_CASE("a row of linear doesn't depend on the other rows") {
    for (const std::string& isa : cpu_instruction_sets()) {
        const auto cpu = backend(isa), alone = backend(isa, 1);
        for (DType type : {DType::f32, DType::f16, DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_1}) {
            const std::int64_t cols = traits(type).block == 1 ? 126 : 288, rows = 152;
            const Packed w = make_weight(*cpu, type, rows, cols);
            Floats all = random_floats(std::size_t(40 * cols), 3);
            for (Precision precision : {Precision::exact, Precision::fine, Precision::fast}) {
                INFO(isa << " " << traits(type).name);
                Floats one_by_one;
                for (int r = 0; r < 40; ++r) {
                    Floats x(all.begin() + r * cols, all.begin() + (r + 1) * cols);
                    const Floats y = run(*alone, x, w, {}, precision);
                    one_by_one.insert(one_by_one.end(), y.begin(), y.end());
                }
                for (int n : {1, 2, 3, 4, 5, 7, 8, 9, 11, 16, 17, 25, 31, 40}) {
                    Floats x(all.begin(), all.begin() + n * cols);
                    CHECK(same_bits(run(*cpu, x, w, {}, precision), Floats(one_by_one.begin(), one_by_one.begin() + n * rows)));
                }
            }
        }
    }
}

TEST_CASE("extreme quants don't saturate") {
    for (const std::string& isa : cpu_instruction_sets()) {
        INFO(isa);
        const auto cpu = backend(isa);
        std::vector<std::byte> stored(34 * 16);
        for (int r = 0; r < 16; ++r) {
            stored[std::size_t(34 * r + 1)] = std::byte(0x3c);  // scale 1
            for (int i = 0; i < 32; ++i) stored[std::size_t(34 * r + 2 + i)] = std::byte(r % 2 ? 127 : 128);
        }
        std::vector<std::byte> bytes(cpu->packed_bytes(PackFormat::q8, 16, 32));
        cpu->pack(DType::q8_0, stored.data(), 16, 32, bytes);
        const Matrix w{PackFormat::q8, 16, 32, bytes.data(), bytes.size()};
        for (float sign : {1.0f, -1.0f}) {
            Floats x(32, 127.0f * sign), y(16);
            for (Precision precision : {Precision::fast, Precision::fine}) {
                cpu->linear(activations(y, 16), activations(x, 32), w, {}, precision);
                CHECK(y[1] == 32.0f * 127 * 127 * sign);
                CHECK(y[0] == -32.0f * 128 * 127 * sign);
            }
        }
    }
}

TEST_CASE("linear refuses wrong shapes") {
    const auto cpu = backend("");
    const Packed w = make_weight(*cpu, DType::f32, 8, 12);
    Floats x(24), y(14);
    CHECK_THROWS_AS(cpu->linear(activations(y, 7), activations(x, 12), w.matrix, {}, Precision::exact), BackendError);
    CHECK_THROWS_AS(backend("6502"), BackendError);
}

}  // namespace glmd::test
