// NEON is part of aarch64, the dot product extension isn't.
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "kernels/cpu/isa.h"

namespace glmd {

const IsaTable* const* usable_isas() {
    static const IsaTable* const all[] = {&isa_neondot, &isa_neon, &isa_scalar, nullptr};
    const bool dot_product = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    return dot_product ? all : all + 1;
}

}  // namespace glmd
