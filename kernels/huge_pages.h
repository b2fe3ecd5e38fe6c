#pragma once
#include <cstddef>

namespace glmd {

/// Zeroed memory of its own on a border of 2 MiB, in huge pages where the system gives them; untouched pages cost nothing.
class HugePages {
public:
    static constexpr std::size_t page = std::size_t(2) << 20;

    explicit HugePages(std::size_t bytes);  // in whole pages of 4 KiB; data() is null when there isn't so much
    ~HugePages();
    HugePages(const HugePages&) = delete;
    HugePages& operator=(const HugePages&) = delete;

    std::byte* data() const { return data_; }
    std::size_t bytes() const { return bytes_; }
    /// They were moved elsewhere (mremap): nothing is left to unmap.
    void moved() { data_ = nullptr; }

private:
    std::size_t bytes_;
    std::byte* data_ = nullptr;
};

}  // namespace glmd
