// AVX2 with AVX-VNNI: small PCs since Alder Lake, whose AVX-512 is switched off.
#include <immintrin.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

#include "kernels/cpu/avx2_lanes.inc"

inline Ints dot_bytes(Ints sum, Bytes w, const std::int8_t* a) {
    const __m256i four = _mm256_set1_epi32(*reinterpret_cast<const int*>(a));
    return {_mm256_dpbusd_avx_epi32(sum.a, w.a, four), _mm256_dpbusd_avx_epi32(sum.b, w.b, four)};
}
inline Ints dot_nibbles(Ints sum, Bytes w, const std::int8_t* a) { return dot_bytes(sum, w, a); }

#include "kernels/cpu/vector.inc"

}  // namespace

extern const IsaTable isa_avxvnni = {"avxvnni", "avx-vnni", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
