#pragma once
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace glmd::test {

using Floats = std::vector<float>;

inline Floats random_floats(std::size_t n, unsigned seed, float size = 1.0f) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0, size);
    Floats values(n);
    for (float& v : values) v = normal(engine);
    return values;
}

inline Activations activations(Floats& values, std::int64_t cols) { return {values.data(), std::int64_t(values.size()) / cols, cols}; }
inline Vector vector(const Floats& values) { return {values.data(), std::int64_t(values.size())}; }

/// Largest difference, relative to the largest element of `expected`.
inline double difference(const Floats& actual, const Floats& expected) {
    REQUIRE(actual.size() == expected.size());
    double largest = 1e-30, worst = 0;
    for (float v : expected) largest = std::max(largest, std::fabs(double(v)));
    for (std::size_t i = 0; i < actual.size(); ++i) {
        const double d = std::fabs(double(actual[i]) - double(expected[i]));
        if (!(d <= worst)) worst = d;  // NaN counts
    }
    return worst / largest;
}

inline bool same_bits(const Floats& a, const Floats& b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), 4 * a.size()) == 0; }

inline std::unique_ptr<Backend> backend(const std::string& isa, int threads = 2) { return make_cpu_backend({threads, isa}); }

inline constexpr DType all_types[] = {DType::f32,  DType::f16,  DType::bf16, DType::q8_0, DType::q4_0, DType::q4_1,
                                      DType::q5_0, DType::q5_1, DType::q4_k, DType::q5_k, DType::q6_k};

/// A stored matrix with sensible scales: random bits everywhere, then the half-precision fields set to small numbers.
std::vector<std::byte> random_stored(DType type, std::int64_t rows, std::int64_t cols, unsigned seed);

}  // namespace glmd::test
