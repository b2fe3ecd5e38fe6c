#pragma once
// A backend's memory, filled from and read by the host. No Catch2: the acceptance program has none.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "kernels/backend.h"

namespace glmd::test {

/// What was put there stays as long as this does; the backend must live longer.
class DeviceMemory {
public:
    explicit DeviceMemory(Backend& backend) : backend_(backend) {}
    Backend& operator*() { return backend_; }
    Backend* operator->() { return &backend_; }

    template <class T>
    T* put(const T* values, std::size_t count) {
        buffers_.push_back(backend_.allocate(std::max<std::size_t>(count * sizeof(T), 1)));
        if (count > 0) backend_.upload(buffers_.back()->data(), values, count * sizeof(T));
        return static_cast<T*>(buffers_.back()->data());
    }
    template <class T>
    T* put(const std::vector<T>& values) { return put(values.data(), values.size()); }
    Activations put(const std::vector<float>& values, std::int64_t cols) { return {put(values), std::int64_t(values.size()) / cols, cols}; }
    Vector vector(const std::vector<float>& values) { return {put(values), std::int64_t(values.size())}; }
    Activations room(std::int64_t rows, std::int64_t cols) { return put(std::vector<float>(std::size_t(rows * cols), NAN), cols); }
    template <class T>
    std::vector<T> get(const T* from, std::size_t count) {
        std::vector<T> values(count);
        backend_.download(values.data(), from, count * sizeof(T));
        return values;
    }
    std::vector<float> get(Activations a) { return get(a.data, std::size_t(a.rows * a.cols)); }
    Matrix matrix(DType type, const std::vector<std::byte>& stored, std::int64_t rows, std::int64_t cols) {
        const PackFormat format = backend_.pack_format(type);
        std::vector<std::byte> packed(backend_.packed_bytes(format, rows, cols));
        backend_.pack(type, stored.data(), rows, cols, packed);
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
    Backend& backend_;
    std::vector<std::unique_ptr<Buffer>> buffers_;
};

}  // namespace glmd::test
