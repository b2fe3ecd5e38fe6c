// The small operations, on every instruction set against double arithmetic.
#include "../common.h"

namespace glmd::test {
namespace {

double apply(Function f, double x) {
    switch (f) {
    case Function::silu: return x / (1 + std::exp(-x));
    case Function::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Function::gelu_erf: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    }
    return 0;
}

}  // namespace

TEST_CASE("norms") {
    for (const std::string& isa : cpu_instruction_sets()) {
        const auto cpu = backend(isa);
        for (int n : {1, 5, 16, 60, 126, 576, 4096}) {
            for (float size : {1.0f, 1e-3f}) {
                INFO(isa << " " << n);
                const int rows = 3;
                Floats x = random_floats(std::size_t(rows * n), 1, size), y(x.size()), expected(x.size());
                const Floats weight = random_floats(std::size_t(n), 2), bias = random_floats(std::size_t(n), 3);
                for (float& v : x) v += size;  // a mean that isn't zero
                for (bool rms : {true, false}) {
                    for (int r = 0; r < rows; ++r) {
                        double mean = 0, squares = 0;
                        if (!rms) {
                            for (int i = 0; i < n; ++i) mean += double(x[std::size_t(r * n + i)]) / n;
                        }
                        for (int i = 0; i < n; ++i) squares += std::pow(double(x[std::size_t(r * n + i)]) - mean, 2) / n;
                        for (int i = 0; i < n; ++i) {
                            const auto at = std::size_t(r * n + i);
                            expected[at] = float((double(x[at]) - mean) / std::sqrt(squares + 1e-5) * double(weight[std::size_t(i)]) +
                                                 (rms ? 0.0 : double(bias[std::size_t(i)])));
                        }
                    }
                    if (rms) cpu->rms_norm(activations(y, n), activations(x, n), vector(weight), 1e-5f);
                    else cpu->layer_norm(activations(y, n), activations(x, n), vector(weight), vector(bias), 1e-5f);
                    CHECK(difference(y, expected) < 1e-5);
                }
                Floats in_place = x;
                cpu->layer_norm(activations(in_place, n), activations(in_place, n), vector(weight), vector(bias), 1e-5f);
                CHECK(same_bits(in_place, y));
            }
        }
    }
}

TEST_CASE("activations and gates") {
    for (const std::string& isa : cpu_instruction_sets()) {
        const auto cpu = backend(isa);
        for (Function f : {Function::silu, Function::gelu_tanh, Function::gelu_erf}) {
            for (Gate gate : {Gate::none, Gate::first, Gate::second}) {
                const int n = 126, rows = 5, width = gate == Gate::none ? n : 2 * n;
                INFO(isa << " function " << int(f) << " gate " << int(gate));
                Floats x = random_floats(std::size_t(rows * width), 1, 3), y(std::size_t(rows * n)), expected(y.size()), size(y.size());
                x[0] = 60; x[1] = -60; x[2] = 0; x[3] = -200; x[4] = 1e-6f;
                for (int r = 0; r < rows; ++r) {
                    for (int i = 0; i < n; ++i) {
                        const double a = double(x[std::size_t(r * width + i)]);
                        const double b = gate == Gate::none ? 0 : double(x[std::size_t(r * width + n + i)]);
                        size[std::size_t(r * n + i)] = float(1 + std::fabs(a) * (1 + std::fabs(b)));
                        expected[std::size_t(r * n + i)] =
                            float(gate == Gate::none ? apply(f, a) : gate == Gate::first ? apply(f, a) * b : a * apply(f, b));
                    }
                }
                cpu->activation(activations(y, n), activations(x, width), f, gate);
                double worst = 0;
                for (std::size_t i = 0; i < y.size(); ++i) {
                    const double d = std::fabs(double(y[i]) - double(expected[i]));
                    if (!(d / double(size[i]) <= worst)) worst = d / double(size[i]);
                }
                CHECK(worst < 3e-6);
            }
        }
    }
}

TEST_CASE("rotary turns the right pairs") {
    const auto cpu = backend("");
    const int heads = 3, head_dim = 8, dim = 4, offset = 2;
    Floats table;
    for (int p = 0; p < 10; ++p) {
        for (int i = 0; i < dim / 2; ++i) {
            const double angle = p * std::pow(10.0, -i);
            table.push_back(float(std::cos(angle)));
            table.push_back(float(std::sin(angle)));
        }
    }
    const std::vector<std::int32_t> positions{7, 0};
    for (RotaryPairing pairing : {RotaryPairing::half, RotaryPairing::interleaved}) {
        Floats x = random_floats(2 * heads * head_dim, 1);
        Floats expected = x;
        for (int r = 0; r < 2; ++r) {
            for (int h = 0; h < heads; ++h) {
                for (int i = 0; i < dim / 2; ++i) {
                    const int base = (r * heads + h) * head_dim + offset;
                    const auto a = std::size_t(base + (pairing == RotaryPairing::half ? i : 2 * i));
                    const auto b = std::size_t(base + (pairing == RotaryPairing::half ? i + dim / 2 : 2 * i + 1));
                    const double angle = positions[std::size_t(r)] * std::pow(10.0, -i), u = double(x[a]), w = double(x[b]);
                    expected[a] = float(u * std::cos(angle) - w * std::sin(angle));
                    expected[b] = float(w * std::cos(angle) + u * std::sin(angle));
                }
            }
        }
        cpu->rotary(activations(x, heads * head_dim), head_dim, {offset, dim, pairing, table.data(), 10}, positions.data());
        CHECK(difference(x, expected) < 1e-6);
    }
    Floats x(24);
    const std::int32_t outside = 10;
    CHECK_THROWS_AS(cpu->rotary(activations(x, 24), 8, {0, 4, RotaryPairing::half, table.data(), 10}, &outside), BackendError);
}

TEST_CASE("embedding, positions, residual, gather, columns") {
    const auto cpu = backend("");
    for (DType type : {DType::f32, DType::q4_0, DType::q8_0}) {
        const auto stored = random_stored(type, 20, 64, 5);
        const PackFormat format = cpu->pack_format(type);
        std::vector<std::byte> bytes(cpu->packed_bytes(format, 20, 64));
        cpu->pack(type, stored.data(), 20, 64, bytes);
        const Matrix table{format, 20, 64, bytes.data(), bytes.size()};
        const std::vector<std::int32_t> ids{19, 0, 17}, bad{20};
        Floats out(3 * 64), row(64);
        cpu->embedding(activations(out, 64), table, ids.data());
        for (std::size_t r = 0; r < 3; ++r) {
            dequantize_row(type, stored.data() + std::size_t(ids[r]) * row_bytes(type, 64), row);
            CHECK(same_bits(row, Floats(out.begin() + std::ptrdiff_t(r) * 64, out.begin() + std::ptrdiff_t(r + 1) * 64)));
        }
        cpu->add_positions(activations(out, 64), table, ids.data());
        CHECK(out[2 * 64 + 5] == 2 * row[5]);
        Floats one(64);
        CHECK_THROWS_AS(cpu->embedding(activations(one, 64), table, bad.data()), BackendError);
    }
    Floats x{1, 2, 3, 4, 5, 6}, y{10, 20, 30, 40, 50, 60}, out(6), columns(4), gathered(3);
    cpu->residual(activations(out, 3), activations(x, 3), 2, activations(y, 3));
    CHECK(out == Floats{12, 24, 36, 48, 60, 72});
    cpu->residual(activations(x, 3), activations(x, 3), 2, activations(y, 3));
    CHECK(x == out);
    cpu->take_columns(activations(columns, 2), activations(y, 3), 1);
    CHECK(columns == Floats{20, 30, 50, 60});
    cpu->put_columns(activations(y, 3), activations(columns, 2), 0);
    CHECK(y == Floats{20, 30, 30, 50, 60, 60});
    y = {10, 20, 30, 40, 50, 60};
    const std::int32_t row = 1;
    cpu->gather_rows(activations(gathered, 3), activations(y, 3), &row);
    CHECK(gathered == Floats{40, 50, 60});
}

TEST_CASE("top_k is sorted, the lower index first among equals") {
    const auto cpu = backend("");
    Floats x{1, 5, 5, NAN, 7, -1, /**/ 0, 0, 0, 0, 0, 9};
    std::vector<std::int32_t> ids(6);
    Floats values(6);
    cpu->top_k(activations(x, 6), 3, ids.data(), values.data());
    CHECK(ids == std::vector<std::int32_t>{4, 1, 2, 5, 0, 1});
    CHECK(values == Floats{7, 5, 5, 9, 0, 0});
    CHECK_THROWS_AS(cpu->top_k(activations(x, 6), 7, ids.data(), values.data()), BackendError);
}

TEST_CASE("memory is zeroed and aligned") {
    const auto cpu = backend("", 2);
    for (std::size_t bytes : {1u, 1000u, 3u << 20}) {
        const auto buffer = cpu->allocate(bytes);
        const auto* p = static_cast<const unsigned char*>(buffer->data());
        CHECK(reinterpret_cast<std::uintptr_t>(p) % 64 == 0);
        CHECK((p[0] == 0 && p[bytes - 1] == 0 && buffer->bytes() == bytes));
    }
    CHECK(cpu->description().find(", 2 threads") != std::string::npos);
    CHECK(cpu_instruction_sets().back() == "scalar");
}

}  // namespace glmd::test
