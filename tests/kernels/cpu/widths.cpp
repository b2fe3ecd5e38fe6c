// linear() at the widths of the family: the golden models' 48, 60 and 126 (no multiples of 32, so activations are narrower
// than quantized weights), the real ones' up to 16,384 inputs and 130,528 outputs. Against double arithmetic, every output.
#include "../common.h"

namespace glmd::test {
namespace {

constexpr DType types[] = {DType::f32, DType::f16, DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_1};  // one per PackFormat
constexpr int most_rows = 17;

/// What fast precision makes of activations: 8-bit integers per group of 32, the last group filled up with zeros.
Floats quantized(const Floats& x, std::int64_t cols) {
    Floats out(x.size());
    for (std::size_t row = 0; row < x.size(); row += std::size_t(cols)) {
        for (std::int64_t first = 0; first < cols; first += 32) {
            const std::size_t begin = row + std::size_t(first), end = row + std::size_t(std::min(first + 32, cols));
            float largest = 0;
            for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(x[i]));
            for (std::size_t i = begin; i < end; ++i) out[i] = std::nearbyint(x[i] * (127.0f / largest)) * (largest / 127.0f);
        }
    }
    return out;
}

Floats reference(const Floats& x, const Floats& w, std::int64_t cols) {
    const std::size_t n = std::size_t(cols), rows = x.size() / n, outputs = w.size() / n;
    Floats out(rows * outputs);
    for (std::size_t o = 0; o < outputs; ++o) {
        for (std::size_t r = 0; r < rows; ++r) {
            double sums[4] = {};
            for (std::size_t c = 0; c < n; ++c) sums[c % 4] += double(x[r * n + c]) * double(w[o * n + c]);
            out[r * outputs + o] = float(sums[0] + sums[1] + sums[2] + sums[3]);
        }
    }
    return out;
}

void check_shape(std::int64_t outputs, std::int64_t cols) {
    const auto plain = backend("scalar", 1);
    for (DType type : types) {
        const bool groups = traits(type).block > 1;
        const std::int64_t stored_cols = groups ? (cols + 31) / 32 * 32 : cols;
        const auto stored = random_stored(type, outputs, stored_cols, unsigned(outputs + cols));
        const PackFormat format = plain->pack_format(type);
        std::vector<std::byte> bytes(plain->packed_bytes(format, outputs, stored_cols));
        plain->pack(type, stored.data(), outputs, stored_cols, bytes);
        const Matrix matrix{format, outputs, stored_cols, bytes.data(), bytes.size()};
        Floats widened, row(static_cast<std::size_t>(stored_cols));
        for (std::int64_t o = 0; o < outputs; ++o) {
            dequantize_row(type, stored.data() + std::size_t(o) * row_bytes(type, stored_cols), row);
            widened.insert(widened.end(), row.begin(), row.begin() + cols);
        }
        Floats x = random_floats(std::size_t(most_rows * cols), 3);
        const Floats exact = reference(x, widened, cols), fast = groups ? reference(quantized(x, cols), widened, cols) : exact;
        for (const std::string& isa : cpu_instruction_sets()) {
            const auto cpu = backend(isa);
            for (Precision precision : {Precision::exact, Precision::fast}) {
                const Floats& expected = precision == Precision::exact ? exact : fast;
                Floats alone;
                for (int n : {1, 3, most_rows}) {
                    if (isa == "scalar" && n == most_rows && outputs > 1000) continue;  // slow by design
                    INFO(isa << " " << traits(type).name << " " << outputs << "x" << cols << ", " << n << " rows, "
                             << (precision == Precision::exact ? "exact" : "fast"));
                    Floats y(std::size_t(n * outputs), NAN);
                    cpu->linear(activations(y, outputs), activations(x, cols).slice(0, n), matrix, {}, precision);
                    CHECK(difference(y, Floats(expected.begin(), expected.begin() + n * outputs)) < 1e-5);
                    y.resize(std::size_t(outputs));
                    if (n == 1) alone = y;
                    else CHECK(same_bits(y, alone));
                }
            }
        }
    }
}

}  // namespace

TEST_CASE("linear with long rows", "[widths]") {
    for (std::int64_t cols : {126, 4096, 12288, 13696, 16384}) check_shape(33, cols);
}

TEST_CASE("linear with a vocabulary of outputs", "[widths][large]") {
    check_shape(130528, 48);
    check_shape(65024, 60);
}

TEST_CASE("activations may be narrower than quantized weights, by less than a group", "[widths]") {
    const auto cpu = backend("");
    std::vector<std::byte> bytes(cpu->packed_bytes(PackFormat::q4, 16, 64));
    const Matrix matrix{PackFormat::q4, 16, 64, bytes.data(), bytes.size()};
    Floats x(64), y(16);
    CHECK_THROWS_AS(cpu->linear(activations(y, 16), {x.data(), 1, 32}, matrix, {}, Precision::exact), BackendError);
    CHECK_THROWS_AS(cpu->linear(activations(y, 16), {x.data(), 1, 65}, matrix, {}, Precision::exact), BackendError);
    cpu->linear(activations(y, 16), {x.data(), 1, 33}, matrix, {}, Precision::exact);
    std::vector<std::byte> wide(cpu->packed_bytes(PackFormat::f16, 16, 64));
    const Matrix halves{PackFormat::f16, 16, 64, wide.data(), wide.size()};
    CHECK_THROWS_AS(cpu->linear(activations(y, 16), {x.data(), 1, 63}, halves, {}, Precision::exact), BackendError);
}

}  // namespace glmd::test
