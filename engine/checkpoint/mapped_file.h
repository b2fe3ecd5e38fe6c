#pragma once
// A file mapped for reading. Immutable; any thread may read.
#include <cstddef>
#include <span>
#include <string>

#include "engine/error.h"

namespace glmd {

class MappedFile {
public:
    explicit MappedFile(const std::string& path);  // ModelError
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const std::string& path() const { return path_; }
    std::span<const std::byte> data() const { return {data_, size_}; }

private:
    std::string path_;
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

/// Says that these mapped bytes won't be needed soon: they leave this process's memory (not the page cache).
void release_pages(std::span<const std::byte> bytes);

/// Reads a small file whole; ModelError when absent or larger than `limit`.
std::string read_text(const std::string& path, std::size_t limit);

}  // namespace glmd
