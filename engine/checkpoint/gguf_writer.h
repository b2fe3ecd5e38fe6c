#pragma once
// Writes a GGUF version 3 file front to back without holding tensor data: metadata and tensor declarations first, then the
// data in the order of declaration. The file appears under its name only when it is whole. Not for several threads.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/error.h"
#include "kernels/tensor.h"

namespace glmd {

class GgufWriter {
public:
    /// Opens a temporary file beside `path`. Throws ModelError.
    explicit GgufWriter(std::string path, std::uint32_t alignment = 32);
    ~GgufWriter();  // removes the temporary file if finish() wasn't reached
    GgufWriter(const GgufWriter&) = delete;
    GgufWriter& operator=(const GgufWriter&) = delete;

    // Metadata; a key may be added once.
    void add_bool(std::string_view key, bool value);
    void add_u32(std::string_view key, std::uint32_t value);
    void add_u64(std::string_view key, std::uint64_t value);
    void add_f32(std::string_view key, float value);
    void add_string(std::string_view key, std::string_view value);
    void add_strings(std::string_view key, std::span<const std::string> values);
    void add_i32s(std::string_view key, std::span<const std::int32_t> values);
    void add_f32s(std::string_view key, std::span<const float> values);
    void add_bytes(std::string_view key, std::span<const std::byte> values);

    /// Declares a tensor; shape in PyTorch's order, as GgufTensor::shape.
    void add_tensor(std::string_view name, DType type, std::span<const std::int64_t> shape);
    /// After the last declaration, before the first append.
    void write_header();
    /// More data of the current tensor, in pieces of any size; a full tensor is padded and the next one becomes current.
    void append(std::span<const std::byte> data);
    /// Checks that all data came, syncs, and renames the file into place.
    void finish();

private:
    struct Declared {
        std::string name;
        std::uint64_t bytes;
    };
    void key(std::string_view name, std::uint32_t type);
    void array(std::string_view name, std::uint32_t type, std::size_t count);
    void write(std::span<const std::byte> data);
    void flush();

    std::string path_;
    std::string temporary_;
    int fd_ = -1;
    std::uint32_t alignment_;
    std::string metadata_;
    std::string directory_;
    std::vector<std::string> keys_;
    std::vector<Declared> tensors_;
    std::uint64_t next_offset_ = 0;
    bool header_written_ = false;
    std::size_t current_ = 0;
    std::uint64_t written_of_current_ = 0;
    std::vector<std::byte> buffer_;
};

}  // namespace glmd
