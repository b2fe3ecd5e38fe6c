// What is peculiar: for a fixed choice of integers the best scale is a least-squares fit, and its error needs only two sums;
// so a candidate scale costs one pass over the group. The winner is rounded to half, the integers are chosen again for the
// rounded scale, and only then is its error compared with plain max-abs rounding, which stays when it's better.
// The error is weighted with 1 + x^2 / mean(x^2): unweighted, the search buys a smaller error by clipping a group's largest
// values, which a model feels more than it (tests/engine/test_int4.cpp). The plain squared error still may not grow.
#include "engine/checkpoint/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/half.h"

#if defined(__x86_64__)
#define GLMD_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define GLMD_WIDE
#endif

namespace glmd {
namespace {

constexpr int group = 32;
constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer

// Vectors of the compiler, which makes of them what the machine has; sums are in the same order on every machine.
constexpr int lanes = 8, vectors = group / lanes;
using Lanes = float __attribute__((vector_size(lanes * sizeof(float))));

struct Candidate {
    std::int8_t q[group];
    std::uint16_t scale;
    double error;
};

double squared_error(const float* x, const Candidate& c) {
    const float d = half_to_float(c.scale);
    double error = 0;
    for (int i = 0; i < group; ++i) {
        const double e = double(x[i]) - double(d) * c.q[i];
        error += e * e;
    }
    return error;
}

void assign(const float* x, Candidate& c) {
    const float d = half_to_float(c.scale), inverse = d == 0 ? 0 : 1.0f / d;
    for (int i = 0; i < group; ++i) {
        const float q = std::clamp(std::isfinite(inverse) ? x[i] * inverse : x[i] / d, -8.0f, 7.0f);
        c.q[i] = static_cast<std::int8_t>((q + rounder) - rounder);
    }
    c.error = squared_error(x, c);
}

/// The value of largest magnitude, with its sign; false when something isn't finite or no half scale can reach it.
bool largest(const float* x, float& m) {
    m = 0;
    for (int i = 0; i < group; ++i) {
        if (!std::isfinite(x[i])) return false;
        if (std::abs(x[i]) > std::abs(m)) m = x[i];
    }
    return true;
}

bool is_infinite(std::uint16_t half) { return (half & 0x7fff) >= 0x7c00; }

bool plain(const float* x, float m, Candidate& c) {
    const float d = m / -8.0f;
    c.scale = float_to_half(d);
    if (is_infinite(c.scale)) return false;
    const float inverse = d == 0 ? 0 : 1.0f / d;
    for (int i = 0; i < group; ++i) {
        const float y = std::isfinite(inverse) ? x[i] * inverse + 8.5f : 8.5f;
        c.q[i] = static_cast<std::int8_t>(std::clamp(static_cast<int>(y), 0, 15) - 8);
    }
    c.error = squared_error(x, c);
    return true;
}

/// Sums of x q and q q for the best of the scales tried; {0, 0} when there is none.
struct Fit {
    float xq, qq;
};
GLMD_WIDE Fit best_fit(const float* x, const float* w, float m) {
    // The group's largest value lands on n: 7 fits exactly on the short side, 8 on the long one, more is clipped.
    constexpr float first = 6.25f, last = 10.25f, step = 0.5f;
    Lanes v[vectors], weight[vectors];
    std::memcpy(v, x, sizeof v);
    std::memcpy(weight, w, sizeof weight);
    Fit best{0, 0};
    float score = 0;
    for (int sign = 1; sign >= -1; sign -= 2)
        for (float n = first; n <= last; n += step) {
            const float inverse = float(sign) * n / m;
            if (!(inverse - inverse == 0)) return {0, 0};  // infinite: a group of tiny values
            Lanes xq = {}, qq = {};
            for (int i = 0; i < vectors; ++i) {
                Lanes q = v[i] * inverse;
                q = q < -8.0f ? Lanes{} - 8.0f : q;
                q = q > 7.0f ? Lanes{} + 7.0f : q;
                q = (q + rounder) - rounder;
                const Lanes wq = weight[i] * q;
                xq += v[i] * wq;
                qq += q * wq;
            }
            float a = 0, b = 0;
            for (int j = 0; j < lanes; ++j) a += xq[j], b += qq[j];
            if (b > 0 && a * a > score * b) score = a * a / b, best = {a, b};
        }
    return best;
}

double weighted_error(const float* x, const float* w, const Candidate& c) {
    const float d = half_to_float(c.scale);
    double error = 0;
    for (int i = 0; i < group; ++i) {
        const double e = double(x[i]) - double(d) * c.q[i];
        error += e * e * w[i];
    }
    return error;
}

void search(const float* x, float m, Candidate& best) {
    float w[group], squares = 0;
    for (int i = 0; i < group; ++i) squares += x[i] * x[i];
    if (!(squares > 0) || !std::isfinite(squares)) return;
    for (int i = 0; i < group; ++i) w[i] = 1 + group * x[i] * x[i] / squares;
    auto [xq, qq] = best_fit(x, w, m);
    Candidate c;
    const double limit = best.error;
    double best_weighted = weighted_error(x, w, best);
    for (int round = 0; round < 3 && qq > 0; ++round) {
        const auto scale = float_to_half(xq / qq);
        if (is_infinite(scale) || (round > 0 && scale == c.scale)) return;
        c.scale = scale;
        assign(x, c);
        if (const double e = weighted_error(x, w, c); c.error <= limit && e < best_weighted) best = c, best_weighted = e;
        xq = qq = 0;
        for (int i = 0; i < group; ++i) xq += w[i] * x[i] * c.q[i], qq += w[i] * float(c.q[i]) * c.q[i];
    }
}

}  // namespace

void write_q4_0_block(const std::int8_t* q, std::uint16_t scale, std::byte* out) {
    std::memcpy(out, &scale, 2);
    for (int i = 0; i < 16; ++i) out[2 + i] = static_cast<std::byte>((q[i] + 8) | (q[i + 16] + 8) << 4);
}

void write_q8_0_block(const std::int8_t* q, std::uint16_t scale, std::byte* out) {
    std::memcpy(out, &scale, 2);
    std::memcpy(out + 2, q, group);
}

bool quantize_q4_0(std::span<const float> x, std::byte* out) {
    for (std::size_t i = 0; i < x.size(); i += group, out += 18) {
        float m;
        Candidate c;
        if (!largest(&x[i], m) || !plain(&x[i], m, c)) return false;
        if (m != 0) search(&x[i], m, c);
        write_q4_0_block(c.q, c.scale, out);
    }
    return true;
}

bool quantize_q4_0_plain(std::span<const float> x, std::byte* out) {
    for (std::size_t i = 0; i < x.size(); i += group, out += 18) {
        float m;
        Candidate c;
        if (!largest(&x[i], m) || !plain(&x[i], m, c)) return false;
        write_q4_0_block(c.q, c.scale, out);
    }
    return true;
}

bool quantize_q8_0(std::span<const float> x, std::byte* out) {
    for (std::size_t i = 0; i < x.size(); i += group, out += 34) {
        float m;
        if (!largest(&x[i], m)) return false;
        const auto scale = float_to_half(std::abs(m) / 127.0f);
        if (is_infinite(scale)) return false;
        const float d = half_to_float(scale);
        std::int8_t q[group];
        for (int j = 0; j < group; ++j)
            q[j] = d == 0 ? std::int8_t{0} : static_cast<std::int8_t>(std::nearbyint(std::clamp(x[i + j] / d, -127.0f, 127.0f)));
        write_q8_0_block(q, scale, out);
    }
    return true;
}

}  // namespace glmd
