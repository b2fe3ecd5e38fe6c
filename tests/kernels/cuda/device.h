#pragma once
// A GPU for tests: the emulated one, or the plugin that GLMD_TEST_CUDA names, on a machine that has a GPU.
#include <dlfcn.h>

#include <cstdlib>

#include "../common.h"
#include "tests/support/cudasim/control.h"

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

/// One backend, its memory filled from and read by the host.
class Gpu {
public:
    Gpu() : backend_(make_cuda_backend({0, plugin()})) {}
    Backend& operator*() { return *backend_; }
    Backend* operator->() { return backend_.get(); }

    template <class T>
    T* put(const T* values, std::size_t count) {
        buffers_.push_back(backend_->allocate(count * sizeof(T)));
        backend_->upload(buffers_.back()->data(), values, count * sizeof(T));
        return static_cast<T*>(buffers_.back()->data());
    }
    template <class T>
    T* put(const std::vector<T>& values) { return put(values.data(), values.size()); }
    Activations put(const Floats& values, std::int64_t cols) { return {put(values), std::int64_t(values.size()) / cols, cols}; }
    Vector vector(const Floats& values) { return {put(values), std::int64_t(values.size())}; }
    Activations room(std::int64_t rows, std::int64_t cols) { return put(Floats(std::size_t(rows * cols), NAN), cols); }
    template <class T>
    std::vector<T> get(const T* from, std::size_t count) {
        std::vector<T> values(count);
        backend_->download(values.data(), from, count * sizeof(T));
        return values;
    }
    Floats get(Activations a) { return get(a.data, std::size_t(a.rows * a.cols)); }

    Matrix matrix(DType type, const std::vector<std::byte>& stored, std::int64_t rows, std::int64_t cols) {
        const PackFormat format = backend_->pack_format(type);
        std::vector<std::byte> packed(backend_->packed_bytes(format, rows, cols));
        backend_->pack(type, stored.data(), rows, cols, packed);
        return {format, rows, cols, put(packed), packed.size()};
    }
    StepTables step(const StepTables& host) {
        StepTables t = host;
        t.sequence = put(host.sequence, std::size_t(host.rows));
        t.slot = put(host.slot, std::size_t(host.rows));
        t.block_tables = put(host.block_tables, std::size_t(host.sequences) * std::size_t(host.max_blocks));
        if (host.bidirectional) t.bidirectional = put(host.bidirectional, std::size_t(host.sequences));
        return t;
    }

private:
    std::unique_ptr<Backend> backend_;
    std::vector<std::unique_ptr<Buffer>> buffers_;
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
