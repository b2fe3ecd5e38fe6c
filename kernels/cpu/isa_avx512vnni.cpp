// AVX-512 with VNNI: one instruction multiplies 64 weights with 64 activations.
#include <immintrin.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

#include "kernels/cpu/avx512_lanes.inc"

/// The activations are broadcast by the product itself: as an instruction of its own (which is what gcc 12 makes of
/// _mm512_dpbusd_epi32) the broadcast takes a sixth of a tile's speed.
inline Ints dot_bytes(Ints sum, Bytes w, const std::int8_t* a) {
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*reinterpret_cast<const int*>(a)));
    return sum;
}
inline Ints dot_nibbles(Ints sum, Bytes w, const std::int8_t* a) { return dot_bytes(sum, w, a); }

#include "kernels/cpu/vector.inc"

}  // namespace

extern const IsaTable isa_avx512vnni = {"avx512vnni", "avx512-vnni", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
