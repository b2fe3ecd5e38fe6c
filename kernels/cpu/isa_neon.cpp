// What every 64-bit Arm has (Raspberry Pi 4, Jetson Nano, TX2 and Xavier): 16-bit products of bytes, summed in pairs.
#include <arm_neon.h>
#include <string.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

#include "kernels/cpu/neon_lanes.inc"

inline Ints dot_nibbles(Ints sum, Bytes w, const std::int8_t* a) {
    const int8x16_t four = four_activations(a);
    for (int i = 0; i < 4; ++i) {
        const int8x16_t x = vreinterpretq_s8_u8(w.v[i]);
        const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(four)), vmull_high_s8(x, four));
        sum.v[i] = vpadalq_s16(sum.v[i], pairs);
    }
    return sum;
}
/// Products of an unsigned byte don't fit a signed one, so bytes go as two nibbles.
inline Ints dot_bytes(Ints sum, Bytes w, const std::int8_t* a) {
    const Ints high = dot_nibbles(splat_int(0), high_nibbles(w), a);
    for (int i = 0; i < 4; ++i) sum.v[i] = vaddq_s32(sum.v[i], vshlq_n_s32(high.v[i], 4));
    return dot_nibbles(sum, low_nibbles(w), a);
}

#include "kernels/cpu/vector.inc"

}  // namespace

extern const IsaTable isa_neon = {"neon", "neon", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
