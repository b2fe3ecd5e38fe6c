// AVX2 without VNNI: products of bytes saturate above 255 * 127, so bytes go as two nibbles.
#include <immintrin.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

#include "kernels/cpu/avx2_lanes.inc"

inline Ints dot_nibbles(Ints sum, Bytes w, const std::int8_t* a) {
    const __m256i four = _mm256_set1_epi32(*reinterpret_cast<const int*>(a)), ones = _mm256_set1_epi16(1);
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(_mm256_maddubs_epi16(w.a, four), ones)),
            _mm256_add_epi32(sum.b, _mm256_madd_epi16(_mm256_maddubs_epi16(w.b, four), ones))};
}
inline Ints dot_bytes(Ints sum, Bytes w, const std::int8_t* a) {
    const __m256i four = _mm256_set1_epi32(*reinterpret_cast<const int*>(a)), sixteen = _mm256_set1_epi16(16);
    const Bytes high = high_nibbles(w);
    sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(_mm256_maddubs_epi16(high.a, four), sixteen));
    sum.b = _mm256_add_epi32(sum.b, _mm256_madd_epi16(_mm256_maddubs_epi16(high.b, four), sixteen));
    return dot_nibbles(sum, low_nibbles(w), a);
}

#include "kernels/cpu/vector.inc"

}  // namespace

extern const IsaTable isa_avx2 = {"avx2", "avx2", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
