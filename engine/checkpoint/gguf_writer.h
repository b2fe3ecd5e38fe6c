#pragma once
// Writes a GGUF version 3 file front to back without holding tensor data: metadata and tensor declarations first, then the
// data in the order of declaration. What is known only afterwards (hashes, a fingerprint) goes into room reserved in the
// metadata. The file appears under its name only when it is whole. Not for several threads.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
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

    /// Records hashes: BLAKE2b-256 of every tensor's data in the order of declaration (glmd.hash.tensors), and of everything
    /// before the data with this very value as zeros (glmd.hash.header). hashes.h checks them. Before write_header().
    void record_hashes() { hashing_ = true; }

    /// Declares a tensor; shape in PyTorch's order, as GgufTensor::shape.
    void add_tensor(std::string_view name, DType type, std::span<const std::int64_t> shape);
    /// After the last declaration, before the first append.
    void write_header();
    /// More data of the current tensor, in pieces of any size; a full tensor is padded and the next one becomes current.
    void append(std::span<const std::byte> data);
    /// Checks that all data came and hands it to the system: a reader of temporary_path() then finds the whole file, but for
    /// what is patched later.
    void complete();
    const std::string& temporary_path() const { return temporary_; }
    /// After complete(): other bytes for a key's value (of an array: of its elements), of the same size.
    void patch(std::string_view key, std::span<const std::byte> value);
    /// Completes the file, fills in the hashes, syncs, and renames it into place.
    void finish();

private:
    struct Declared {
        std::string name;
        std::uint64_t bytes;
    };
    void key(std::string_view name, std::uint32_t type);
    void array(std::string_view name, std::uint32_t type, std::size_t count);
    void write(std::span<const std::byte> data);
    void write_at(std::uint64_t offset, std::span<const std::byte> data);
    void flush();

    struct Key {
        std::string name;
        std::size_t begin, end;  // of the value in the metadata
    };
    std::string path_;
    std::string temporary_;
    int fd_ = -1;
    std::uint32_t alignment_;
    std::string metadata_;
    std::string directory_;
    std::vector<Key> keys_;
    std::vector<Declared> tensors_;
    std::uint64_t next_offset_ = 0;
    bool header_written_ = false;
    std::size_t current_ = 0;
    std::uint64_t written_of_current_ = 0;
    std::vector<std::byte> buffer_;
    bool hashing_ = false;
    std::uint64_t header_bytes_ = 0;
    std::unique_ptr<class Hash> hash_;  // of the current tensor
    std::vector<std::byte> hashes_;
};

class Gguf;

/// Adds the metadata of another file, but for the keys that skip() is true of. Numbers keep their value; those that only other
/// programs could care about (negative integers) are left out.
void copy_metadata(GgufWriter& to, const Gguf& from, const std::function<bool(std::string_view key)>& skip);

}  // namespace glmd
