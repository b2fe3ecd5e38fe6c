// What is peculiar: for a fixed choice of integers the best scale is a least-squares fit, and its error needs only two sums;
// so a candidate scale costs one pass over the group. The winner is rounded to half, the integers are chosen again for the
// rounded scale, and only then is its error compared with plain max-abs rounding, which stays when it's better.
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
constexpr int lanes = 8;  // partial sums, so that the compiler can use vectors without changing the order of additions
constexpr float rounder = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to the nearest integer

struct Fit {
    float xq, qq;
};

/// Integers for scale 1 / inverse, and the sums of x q and q q.
GLMD_WIDE Fit fit(const float* x, float inverse) {
    float xq[lanes] = {}, qq[lanes] = {};
    for (int i = 0; i < group; i += lanes)
        for (int j = 0; j < lanes; ++j) {
            float q = x[i + j] * inverse;
            q = q < -8.0f ? -8.0f : q;
            q = q > 7.0f ? 7.0f : q;
            q = (q + rounder) - rounder;
            xq[j] += x[i + j] * q;
            qq[j] += q * q;
        }
    Fit f{0, 0};
    for (int j = 0; j < lanes; ++j) f.xq += xq[j], f.qq += qq[j];
    return f;
}

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
    const float d = half_to_float(c.scale);
    for (int i = 0; i < group; ++i)
        c.q[i] = d == 0 ? std::int8_t{0} : static_cast<std::int8_t>(std::clamp(std::nearbyint(x[i] / d), -8.0f, 7.0f));
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

void search(const float* x, float m, Candidate& best) {
    // The group's largest value lands on n: 7 fits exactly on the short side, 8 on the long one, more is clipped.
    constexpr float first = 6.0f, last = 11.0f, step = 0.25f;
    float score = 0, xq = 0, qq = 0;
    for (const float sign : {1.0f, -1.0f})
        for (float n = first; n <= last; n += step) {
            const float inverse = sign * n / m;
            if (!std::isfinite(inverse)) return;
            const Fit f = fit(x, inverse);
            if (f.qq > 0 && f.xq * f.xq > score * f.qq) score = f.xq * f.xq / f.qq, xq = f.xq, qq = f.qq;
        }
    if (qq == 0) return;
    Candidate c;
    for (int round = 0; round < 3; ++round) {
        c.scale = float_to_half(xq / qq);
        if (is_infinite(c.scale)) return;
        assign(x, c);
        if (c.error < best.error) best = c;
        xq = qq = 0;
        for (int i = 0; i < group; ++i) xq += x[i] * c.q[i], qq += float(c.q[i]) * c.q[i];
        if (qq == 0) return;
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
            q[j] = d == 0 ? std::int8_t{0} : static_cast<std::int8_t>(std::clamp(std::nearbyint(x[i + j] / d), -127.0f, 127.0f));
        write_q8_0_block(q, scale, out);
    }
    return true;
}

}  // namespace glmd
