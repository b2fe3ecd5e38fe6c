// NEON with the dot product extension (ARMv8.2): 16 floats are four registers. sdot is signed by signed, fine for
// nibbles; bytes go as two nibbles.
#include <arm_neon.h>
#include <string.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

constexpr int linear_tile = 4;  // 16 of 32 registers are accumulators
constexpr int attention_tile = 2;

struct Lanes { float32x4_t v[4]; };
struct Ints { int32x4_t v[4]; };
struct Bytes { uint8x16_t v[4]; };

template <class F>
inline Lanes lanes(F f) { return {{f(0), f(1), f(2), f(3)}}; }

inline Lanes splat(float x) { return lanes([&](int) { return vdupq_n_f32(x); }); }
inline Lanes zero() { return splat(0); }
inline Lanes load(const float* p) { return lanes([&](int i) { return vld1q_f32(p + 4 * i); }); }
inline Lanes load(const std::uint16_t* p) {
    return lanes([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline void store(float* p, Lanes x) { for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]); }
inline void store_half(std::uint16_t* p, Lanes x) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
}
inline Lanes add(Lanes x, Lanes y) { return lanes([&](int i) { return vaddq_f32(x.v[i], y.v[i]); }); }
inline Lanes sub(Lanes x, Lanes y) { return lanes([&](int i) { return vsubq_f32(x.v[i], y.v[i]); }); }
inline Lanes mul(Lanes x, Lanes y) { return lanes([&](int i) { return vmulq_f32(x.v[i], y.v[i]); }); }
inline Lanes div(Lanes x, Lanes y) { return lanes([&](int i) { return vdivq_f32(x.v[i], y.v[i]); }); }
inline Lanes fma(Lanes x, Lanes y, Lanes z) { return lanes([&](int i) { return vfmaq_f32(z.v[i], x.v[i], y.v[i]); }); }
inline Lanes max(Lanes x, Lanes y) { return lanes([&](int i) { return vmaxnmq_f32(x.v[i], y.v[i]); }); }
inline Lanes min(Lanes x, Lanes y) { return lanes([&](int i) { return vminnmq_f32(x.v[i], y.v[i]); }); }
inline Lanes abs(Lanes x) { return lanes([&](int i) { return vabsq_f32(x.v[i]); }); }
inline Lanes round(Lanes x) { return lanes([&](int i) { return vrndnq_f32(x.v[i]); }); }
inline Lanes copy_sign(Lanes magnitude, Lanes sign) {
    return lanes([&](int i) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign.v[i], magnitude.v[i]); });
}
inline float reduce_add(Lanes x) { return vaddvq_f32(vaddq_f32(vaddq_f32(x.v[0], x.v[1]), vaddq_f32(x.v[2], x.v[3]))); }
inline float reduce_max(Lanes x) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3]))); }

inline Ints splat_int(int x) { return {{vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}}; }
inline Ints add(Ints x, Ints y) {
    for (int i = 0; i < 4; ++i) x.v[i] = vaddq_s32(x.v[i], y.v[i]);
    return x;
}
inline Lanes to_float(Ints x) { return lanes([&](int i) { return vcvtq_f32_s32(x.v[i]); }); }
inline Ints to_int(Lanes x) {
    Ints r;
    for (int i = 0; i < 4; ++i) r.v[i] = vcvtnq_s32_f32(x.v[i]);
    return r;
}
inline int reduce_add(Ints x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3]))); }
/// 2^n for whole n.
inline Lanes power_of_2(Lanes n) {
    const Ints k = to_int(n);
    return lanes([&](int i) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(k.v[i], vdupq_n_s32(127)), 23)); });
}
inline void store_int8(std::int8_t* p, Ints x) {
    const int16x8_t low = vcombine_s16(vqmovn_s32(x.v[0]), vqmovn_s32(x.v[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(x.v[2]), vqmovn_s32(x.v[3]));
    vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}

inline Bytes load_bytes(const std::uint8_t* p) { return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}}; }
inline Bytes low_nibbles(Bytes x) {
    for (int i = 0; i < 4; ++i) x.v[i] = vandq_u8(x.v[i], vdupq_n_u8(15));
    return x;
}
inline Bytes high_nibbles(Bytes x) {
    for (int i = 0; i < 4; ++i) x.v[i] = vshrq_n_u8(x.v[i], 4);
    return x;
}
/// Byte c of every 32-bit lane, as float.
template <int c>
inline Lanes column(Bytes x) {
    return lanes([&](int i) {
        const uint32x4_t words = vreinterpretq_u32_u8(x.v[i]);
        return vcvtq_f32_u32(vandq_u32(vshlq_u32(words, vdupq_n_s32(-8 * c)), vdupq_n_u32(255)));
    });
}
inline Ints dot_nibbles(Ints sum, Bytes w, const std::int8_t* a) {
    int word;
    memcpy(&word, a, 4);
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(word));
    for (int i = 0; i < 4; ++i) sum.v[i] = vdotq_s32(sum.v[i], vreinterpretq_s8_u8(w.v[i]), four);
    return sum;
}
inline Ints dot_bytes(Ints sum, Bytes w, const std::int8_t* a) {
    const Ints high = dot_nibbles(splat_int(0), high_nibbles(w), a);
    for (int i = 0; i < 4; ++i) sum.v[i] = vaddq_s32(sum.v[i], vshlq_n_s32(high.v[i], 4));
    return dot_nibbles(sum, low_nibbles(w), a);
}

#include "kernels/cpu/vector.inc"

}  // namespace

extern const IsaTable isa_neon = {"neon", "neon", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
