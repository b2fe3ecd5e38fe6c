#pragma once
// What libglmd_cuda.so exports: one function, whose table names the interface that it was built for. Plugin and program come from
// one build, so C++ objects may cross; the table says so when they don't.
#include "kernels/backend.h"

namespace glmd {

struct CudaPlugin {
    std::uint32_t interface;   // cuda_plugin_interface
    const char* version;       // the project's
    std::vector<CudaDevice> (*devices)();
    std::unique_ptr<Backend> (*make)(int device);
};

/// Changes with Backend, CudaDevice and CudaPlugin.
inline constexpr std::uint32_t cuda_plugin_interface = 1;
inline constexpr const char* cuda_plugin_symbol = "glmd_cuda_plugin";
using CudaPluginEntry = const CudaPlugin* (*)();

}  // namespace glmd
