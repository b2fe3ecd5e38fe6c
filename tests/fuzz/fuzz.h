#pragma once
// What the fuzz programs share. Each is one file: LLVMFuzzerTestOneInput(), which must neither crash, leak nor hang whatever the
// bytes are, and may reject them only by the errors that its parser documents. See CMakeLists.txt for how it is run.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace glmd::fuzz {

/// A property that doesn't hold counts as a crash.
inline void require(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "doesn't hold: %s\n", what);
    std::abort();
}

/// Reads every byte that tensors claim to have.
inline void read_all(const auto& tensors) {
    [[maybe_unused]] static volatile unsigned sink;  // so that the compiler leaves nothing out
    unsigned sum = 0;
    for (const auto& tensor : tensors)
        for (const std::byte b : tensor.data) sum += unsigned(b);
    sink = sum;
}

/// The input as a file, in memory.
class InputFile {
public:
    explicit InputFile(std::span<const std::uint8_t> bytes) : descriptor_(::memfd_create("input", MFD_CLOEXEC)) {
        require(descriptor_ >= 0 && ::write(descriptor_, bytes.data(), bytes.size()) == ssize_t(bytes.size()), "the input could be written");
        path_ = "/proc/self/fd/" + std::to_string(descriptor_);
    }
    ~InputFile() { ::close(descriptor_); }
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;
    const std::string& path() const { return path_; }

private:
    int descriptor_;
    std::string path_;
};

/// A folder in memory, one for each process.
class Folder {
public:
    Folder() {
        std::string name = std::filesystem::exists("/dev/shm") ? "/dev/shm/glmd-fuzz-XXXXXX" : "/tmp/glmd-fuzz-XXXXXX";
        require(::mkdtemp(name.data()) != nullptr, "a folder could be made");
        path_ = name;
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    std::string file(const std::string& name) const { return path_ + "/" + name; }
    void put(const std::string& name, std::string_view bytes) const {
        std::ofstream(file(name), std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
    }

private:
    std::string path_;
};

/// Splits off what stands before the first `separator`; the rest is left in `text`.
inline std::string_view take(std::string_view& text, char separator) {
    const std::size_t at = std::min(text.find(separator), text.size());
    const std::string_view head = text.substr(0, at);
    text.remove_prefix(std::min(at + 1, text.size()));
    return head;
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) { return {reinterpret_cast<const char*>(data), size}; }

}  // namespace glmd::fuzz
