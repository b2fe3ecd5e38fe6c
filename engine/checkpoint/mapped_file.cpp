// What is peculiar: mapped pages count as this process's memory until they are given back, so whoever has used a part of a
// file says so with release_pages(); that keeps the peak small however large the checkpoint is.
#include "engine/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>

namespace glmd {
namespace {

[[noreturn]] void failed(const std::string& path) {
    throw ModelError(path + ": cannot read the file: " + std::generic_category().message(errno) + ".");
}

struct Descriptor {
    explicit Descriptor(const std::string& path) : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
        if (fd < 0) failed(path);
        struct stat st {};
        if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
            ::close(fd);
            throw ModelError(path + ": this isn't an ordinary file.");
        }
        size = static_cast<std::size_t>(st.st_size);
    }
    ~Descriptor() { ::close(fd); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int fd;
    std::size_t size = 0;
};

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
    const Descriptor file(path);
    size_ = file.size;
    if (size_ == 0) return;
    void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (p == MAP_FAILED) failed(path);
    data_ = static_cast<const std::byte*>(p);
}

MappedFile::~MappedFile() {
    if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void release_pages(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data()) / page * page;
    const auto end = (reinterpret_cast<std::uintptr_t>(bytes.data()) + bytes.size() + page - 1) / page * page;
    ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

std::string read_text(const std::string& path, std::size_t limit) {
    const Descriptor file(path);
    if (file.size > limit)
        throw ModelError(path + ": the file has " + std::to_string(file.size) + " bytes; at most " + std::to_string(limit) +
                         " can be right.");
    std::string text(file.size, '\0');
    std::size_t done = 0;
    while (done < text.size()) {
        const auto n = ::read(file.fd, text.data() + done, text.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) failed(path);
        if (n == 0) break;
        done += static_cast<std::size_t>(n);
    }
    text.resize(done);
    return text;
}

}  // namespace glmd
