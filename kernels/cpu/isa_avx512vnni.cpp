// AVX-512 with VNNI: one instruction multiplies 64 weights with 64 activations.
#include <immintrin.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed.h"

namespace glmd {
namespace {

#include "kernels/cpu/avx512_lanes.inc"
#include "kernels/cpu/avx512_vnni.inc"
#include "kernels/cpu/vector.inc"

}  // namespace

extern const IsaTable isa_avx512vnni = {"avx512vnni", "avx512-vnni", GLMD_VECTOR_FUNCTIONS};

}  // namespace glmd
