#pragma once
// The instructions of kernels/cuda/ptx.cuh, in plain C++: the same names, the same fragments.
#include "cudasim.h"

namespace glmd::cuda::ptx {

inline int sm() { return cudasim::options.arch; }

inline void copy_16(void* shared, const void* global, bool there, CUDASIM_HERE) { cudasim::async_copy({shared, there ? global : nullptr}, {file, line}); }
inline void copy_commit() { cudasim::async_commit(); }
template <int groups_left>
void copy_wait() { cudasim::async_wait(groups_left); }

/// Lane i gives row i % 8 of matrix i / 8.
template <bool transposed>
void load_matrix_x4(std::uint32_t (&r)[4], const void* row, CUDASIM_HERE) {
    const cudasim::Site at{file, line};
    if (reinterpret_cast<std::uintptr_t>(row) & 15) cudasim::fail("a row of ldmatrix isn't aligned", at);
    const unsigned char* rows = cudasim::exchange(~0u, &row, sizeof row, cudasim::Collective::ldmatrix, at);
    const unsigned lane = cudasim::current->lane;
    for (unsigned m = 0; m < 4; ++m) {
        std::uint16_t pair[2];
        for (unsigned i = 0; i < 2; ++i) {
            const unsigned from = transposed ? lane % 4 * 2 + i : lane / 4, column = transposed ? lane / 4 : lane % 4 * 2 + i;
            pair[i] = cudasim::from_lane<const std::uint16_t*>(rows, 8 * m + from)[column];
        }
        r[m] = pair[0] | std::uint32_t(pair[1]) << 16;
    }
    __syncwarp(~0u, file, line);  // nobody overwrites rows that another lane still reads
}

struct MmaOperands {
    std::uint32_t a[4], b[2];
};

/// d[i] is row lane / 4 + 8 * (i / 2), column lane % 4 * 2 + i % 2; f(sum, a, b) adds the products of two words. `words` of K: 4 lanes each.
template <class D, class F>
void mma(D* d, int count, const std::uint32_t* a, int a_words, const std::uint32_t* b, int b_words, cudasim::Site at, const F& f) {
    MmaOperands mine{};
    for (int i = 0; i < a_words; ++i) mine.a[i] = a[i];
    for (int i = 0; i < b_words; ++i) mine.b[i] = b[i];
    const unsigned char* all = cudasim::exchange(~0u, &mine, sizeof mine, cudasim::Collective::mma, at);
    const unsigned g = cudasim::current->lane / 4, t = cudasim::current->lane % 4;
    const int rows = count / 2;  // of 8
    for (int i = 0; i < count; ++i)
        for (unsigned q = 0; q < 4; ++q) {
            const auto A = cudasim::from_lane<MmaOperands>(all, g * 4 + q), B = cudasim::from_lane<MmaOperands>(all, (2 * t + unsigned(i) % 2) * 4 + q);
            for (int h = 0; h < b_words; ++h) d[i] = f(d[i], A.a[i / 2 + rows * h], B.b[h]);
        }
}

inline float halves(float sum, std::uint32_t a, std::uint32_t b) {
    const float2 x = __half22float2(std::bit_cast<__half2>(a)), y = __half22float2(std::bit_cast<__half2>(b));
    return sum + x.x * y.x + x.y * y.y;
}
inline int bytes(int sum, std::uint32_t a, std::uint32_t b) { return __dp4a(int(a), int(b), sum); }

inline void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], CUDASIM_HERE) { mma(d, 4, a, 4, b, 2, {file, line}, halves); }
inline void mma_m16n8k8_f16(float (&d)[4], const std::uint32_t (&a)[2], std::uint32_t b, CUDASIM_HERE) { mma(d, 4, a, 2, &b, 1, {file, line}, halves); }
inline void mma_m16n8k32_s8(int (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], CUDASIM_HERE) { mma(d, 4, a, 4, b, 2, {file, line}, bytes); }
inline void mma_m8n8k16_s8(int (&d)[2], std::uint32_t a, std::uint32_t b, CUDASIM_HERE) { mma(d, 2, &a, 1, &b, 1, {file, line}, bytes); }

}  // namespace glmd::cuda::ptx
