// With the dot product extension of ARMv8.2 (Jetson Orin and Thor, Raspberry Pi 5, Graviton 2): sdot, signed by signed.
#include <arm_neon.h>
#include <string.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

#include "kernels/cpu/neon_lanes.inc"

inline Ints dot_nibbles(Ints sum, Bytes w, const std::int8_t* a) {
    const int8x16_t four = four_activations(a);
    for (int i = 0; i < 4; ++i) sum.v[i] = vdotq_s32(sum.v[i], vreinterpretq_s8_u8(w.v[i]), four);
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

extern const IsaTable isa_neondot = {"neondot", "neon-dotprod", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
