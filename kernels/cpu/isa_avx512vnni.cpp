// AVX-512 with VNNI: one instruction multiplies 64 weights with 64 activations.
#include <immintrin.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

#include "kernels/cpu/avx512_lanes.inc"

inline Ints dot_bytes(Ints sum, Bytes w, const std::int8_t* a) { return _mm512_dpbusd_epi32(sum, w, four_activations(a)); }
inline Ints dot_nibbles(Ints sum, Bytes w, const std::int8_t* a) { return dot_bytes(sum, w, a); }

#include "kernels/cpu/vector.inc"

}  // namespace

extern const IsaTable isa_avx512vnni = {"avx512vnni", "avx512-vnni", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
