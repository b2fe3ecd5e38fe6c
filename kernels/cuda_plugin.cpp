// Finds and opens libglmd_cuda.so. It stays a plugin because what is linked to cuBLAS can't even start where cuBLAS isn't installed.
#include "kernels/cuda/plugin.h"

#include <dlfcn.h>

#include <filesystem>

namespace glmd {
namespace {

namespace fs = std::filesystem;
constexpr const char* file_name = "libglmd_cuda.so";

/// Beside the program in a build tree, wherever the program is in it; then where it is installed.
std::vector<fs::path> places() {
    std::vector<fs::path> all;
    std::error_code error;
    if (const fs::path self = fs::read_symlink("/proc/self/exe", error); !error) {
        fs::path directory = self.parent_path();
        for (int up = 0; up < 4 && directory.has_relative_path(); ++up, directory = directory.parent_path()) {
            all.push_back(directory / "lib" / file_name);
            all.push_back(directory / "lib" / "glmd" / file_name);
        }
    }
    all.push_back(fs::path(GLMD_PLUGINS) / file_name);
    return all;
}

std::string find(const std::string& given) {
    if (!given.empty()) return given;
    const auto all = places();
    std::error_code error;
    for (const fs::path& p : all)
        if (fs::exists(p, error)) return p;
    throw BackendError("CUDA isn't installed: there is no " + all.back().string());
}

/// Opened once and never closed: the CUDA runtime doesn't survive that.
const CudaPlugin& open(const CudaOptions& options) {
    const std::string path = find(options.plugin);
    void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const std::string why = ::dlerror();
        if (why.find("cublas") != std::string::npos) throw BackendError("CUDA can't be used without cuBLAS: " + why);
        throw BackendError("the CUDA plugin can't be opened: " + why);
    }
    const auto entry = reinterpret_cast<CudaPluginEntry>(::dlsym(handle, cuda_plugin_symbol));
    const CudaPlugin* plugin = entry ? entry() : nullptr;
    if (!plugin) throw BackendError(path + " is no plugin of glmd");
    if (plugin->interface != cuda_plugin_interface || std::string_view(plugin->version) != GLMD_VERSION)
        throw BackendError(path + " belongs to version " + plugin->version + " of glmd, and this is " GLMD_VERSION);
    return *plugin;
}

}  // namespace

std::vector<CudaDevice> cuda_devices(const CudaOptions& options) { return open(options).devices(); }
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) { return open(options).make(options.device); }

}  // namespace glmd
