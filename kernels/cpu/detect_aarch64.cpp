// NEON is part of aarch64, its extensions for products of bytes aren't.
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "kernels/cpu/isa.h"

namespace glmd {

const IsaTable* const* usable_isas() {
    static const IsaTable* const all[] = {&isa_neoni8mm, &isa_neondot, &isa_neon, &isa_scalar, nullptr};
    const bool dot_product = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    const bool matrix_product = dot_product && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
    return matrix_product ? all : dot_product ? all + 1 : all + 2;
}

}  // namespace glmd
