#pragma once
// A GPU for tests: the emulated one, or the plugin that GLMD_TEST_CUDA names, on a machine that has a GPU.
#include <dlfcn.h>

#include <cstdlib>

#include "../common.h"
#include "tests/support/cudasim/control.h"
#include "tests/support/device_memory.h"

namespace glmd::test {

inline std::string plugin() {
    const char* given = std::getenv("GLMD_TEST_CUDA");
    return given ? given : GLMD_CUDA_EMULATED;
}

/// Of the emulated plugin; null for a real one.
inline const CudasimControl* control() {
    static void* handle = ::dlopen(plugin().c_str(), RTLD_NOW | RTLD_LOCAL);
    const auto entry = reinterpret_cast<const CudasimControl* (*)()>(::dlsym(handle, "cudasim_control"));
    return entry ? entry() : nullptr;
}

struct OwnedGpu {
    std::unique_ptr<Backend> backend = make_cuda_backend({0, plugin()});
};

/// A backend of its own; as a base it comes before the memory on it and goes after it.
class Gpu : OwnedGpu, public DeviceMemory {
public:
    Gpu() : DeviceMemory(*backend) {}
};

/// f() under some schedules of the emulated GPU, and as sm_75 (no cp.async, smaller mma).
template <class F>
void each_schedule(const F& f) {
    if (!control()) return f();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    const std::vector<std::pair<int, int>> schedules{{1, 870}};  // each of which takes minutes
#else
    const std::vector<std::pair<int, int>> schedules{{0, 870}, {1, 870}, {2, 870}, {2, 750}};
#endif
    for (const auto& [seed, arch] : schedules) {
        INFO("schedule " << seed << ", sm_" << arch / 10);
        control()->seed(std::uint64_t(seed));
        control()->device(arch, false, false);
        f();
    }
    control()->seed(0);
    control()->device(870, false, false);
}

}  // namespace glmd::test
