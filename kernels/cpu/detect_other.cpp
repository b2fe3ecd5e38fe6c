// A processor we have no vectors for.
#include "kernels/cpu/isa.h"

namespace glmd {

const IsaTable* const* usable_isas() {
    static const IsaTable* const only[] = {&isa_scalar, nullptr};
    return only;
}

}  // namespace glmd
