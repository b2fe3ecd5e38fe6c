// Which tables an x86-64 processor can run. The AVX-512 files are built with F, BW, DQ and VL, so all four are asked for.
#include "kernels/cpu/isa.h"

namespace glmd {

const IsaTable* const* usable_isas() {
    static const IsaTable* tables[5] = {};
    static const bool filled = [] {
        int n = 0;
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
        const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        if (avx512 && __builtin_cpu_supports("avx512vnni")) tables[n++] = &isa_avx512vnni;
        if (avx512) tables[n++] = &isa_avx512;
        if (avx2) tables[n++] = &isa_avx2;
        tables[n] = &isa_scalar;
        return true;
    }();
    (void)filled;
    return tables;
}

}  // namespace glmd
