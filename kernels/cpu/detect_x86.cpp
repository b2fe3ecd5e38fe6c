// Which tables an x86-64 processor can run. The AVX-512 files are built with F, BW, DQ and VL, so all four are asked for.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/isa.h"

namespace glmd {
namespace {

/// gcc 12 has no name for it: leaf 7.1, eax bit 4.
bool avx_vnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

/// Linux gives a process the tile registers only if it asks, before its threads start.
bool tiles_granted() {
    constexpr int request_state = 0x1023 /* ARCH_REQ_XCOMP_PERM */, tile_data = 18;
    return syscall(SYS_arch_prctl, request_state, tile_data) == 0;
}

}  // namespace

const IsaTable* const* usable_isas() {
    static const IsaTable* tables[7] = {};
    static const bool filled = [] {
        int n = 0;
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
        const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
        const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
        const bool amx = vnni && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") && tiles_granted();
        if (amx) tables[n++] = &isa_avx512amx;
        if (vnni) tables[n++] = &isa_avx512vnni;
        if (avx512) tables[n++] = &isa_avx512;
        if (avx2 && avx_vnni()) tables[n++] = &isa_avxvnni;
        if (avx2) tables[n++] = &isa_avx2;
        tables[n] = &isa_scalar;
        return true;
    }();
    (void)filled;
    return tables;
}

}  // namespace glmd
