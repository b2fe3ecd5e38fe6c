#include "kernels/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>

namespace glmd {

HugePages::HugePages(std::size_t bytes) : bytes_(bytes) {
    // One huge page more, so that the rest can begin on a border.
    void* area = ::mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) return;
    const std::size_t skip = (page - reinterpret_cast<std::uintptr_t>(area) % page) % page;
    data_ = static_cast<std::byte*>(area) + skip;
    if (skip > 0) ::munmap(area, skip);
    if (skip < page) ::munmap(data_ + bytes, page - skip);
    ::madvise(data_, bytes, MADV_HUGEPAGE);
}

HugePages::~HugePages() {
    if (data_) ::munmap(data_, bytes_);
}

}  // namespace glmd
