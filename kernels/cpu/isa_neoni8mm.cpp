// With the matrix extension of ARMv8.6 (Jetson Thor, Graviton 3, Apple M2): smmla and usmmla, 2 x 8 by 8 x 2 bytes. A row that
// is alone goes by sdot and usdot.
#include <arm_neon.h>
#include <string.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

#include "kernels/cpu/neon_lanes.inc"

/// Here unsigned weights multiply signed activations: bytes need no cutting.
inline Ints dot_bytes(Ints sum, Bytes w, const std::int8_t* a) {
    const int8x16_t four = four_activations(a);
    for (int i = 0; i < 4; ++i) sum.v[i] = vusdotq_s32(sum.v[i], w.v[i], four);
    return sum;
}
inline Ints dot_nibbles(Ints sum, Bytes w, const std::int8_t* a) { return dot_bytes(sum, w, a); }

/// One group. Vectors 2 k and 2 k + 1 are 8 columns of 16 outputs; zipped they are pairs of outputs as the product wants them.
inline void dot_two_rows(Ints& first, Ints& second, const Bytes (&v)[8], const std::int8_t* a, const std::int8_t* b) {
    for (int i = 0; i < 4; ++i) {  // outputs 4 i … 4 i + 3
        int32x4_t low = vdupq_n_s32(0), high = low;  // of two outputs: (a, first), (b, first), (a, second), (b, second)
        for (int k = 0; k < 4; ++k) {
            const int8x16_t rows = vcombine_s8(vld1_s8(a + 8 * k), vld1_s8(b + 8 * k));
            const uint32x4_t left = vreinterpretq_u32_u8(v[2 * k].v[i]), right = vreinterpretq_u32_u8(v[2 * k + 1].v[i]);
            low = vusmmlaq_s32(low, vreinterpretq_u8_u32(vzip1q_u32(left, right)), rows);
            high = vusmmlaq_s32(high, vreinterpretq_u8_u32(vzip2q_u32(left, right)), rows);
        }
        first.v[i] = vaddq_s32(first.v[i], vuzp1q_s32(low, high));
        second.v[i] = vaddq_s32(second.v[i], vuzp2q_s32(low, high));
    }
}
#define GLMD_DOT_TWO_ROWS

#include "kernels/cpu/vector.inc"

}  // namespace

extern const IsaTable isa_neoni8mm = {"neoni8mm", "neon-i8mm", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
