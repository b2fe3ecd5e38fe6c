// AVX-512 without VNNI (Skylake): 16-bit products of bytes. They saturate above 255 * 127, so bytes go as two nibbles.
#include <immintrin.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

#include "kernels/cpu/avx512_lanes.inc"

inline Ints dot_nibbles(Ints sum, Bytes w, const std::int8_t* a) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(w, four_activations(a)), _mm512_set1_epi16(1)));
}
inline Ints dot_bytes(Ints sum, Bytes w, const std::int8_t* a) {
    const Ints high = _mm512_maddubs_epi16(high_nibbles(w), four_activations(a));
    return dot_nibbles(_mm512_add_epi32(sum, _mm512_madd_epi16(high, _mm512_set1_epi16(16))), low_nibbles(w), a);
}

#include "kernels/cpu/vector.inc"

}  // namespace

extern const IsaTable isa_avx512 = {"avx512", "avx512", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
