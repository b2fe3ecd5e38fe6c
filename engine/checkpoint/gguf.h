#pragma once
// GGUF versions 2 and 3, little endian, through mmap. Every count, length and offset is checked against the file before
// it is used; a file that lies is a ModelError with a sentence. Immutable after construction: any thread may read.
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/error.h"
#include "kernels/tensor.h"

namespace glmd {

/// A tensor in the file. shape is in PyTorch's order: [rows, cols] for a matrix (GGUF's own order is reversed).
struct GgufTensor {
    std::string name;
    DType type = DType::f32;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> data;
    std::int64_t rows() const { return shape.size() > 1 ? elements() / shape.back() : 1; }
    std::int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
    std::int64_t elements() const;
};

class Gguf {
public:
    using Strings = std::vector<std::string_view>;  // views into the mapped file
    using Value = std::variant<bool, std::int64_t, std::uint64_t, double, std::string_view, std::vector<std::int64_t>,
                               std::vector<double>, Strings>;

    /// Maps and checks the whole directory of the file. Throws ModelError.
    explicit Gguf(const std::string& path);
    ~Gguf();
    Gguf(const Gguf&) = delete;
    Gguf& operator=(const Gguf&) = delete;

    const std::string& path() const { return path_; }
    std::size_t file_bytes() const;
    std::span<const std::byte> contents() const;  // the whole file

    bool has(std::string_view key) const { return values_.find(key) != values_.end(); }
    // A missing key without a default, or one of another type, is a ModelError that names it.
    std::int64_t integer(std::string_view key, std::optional<std::int64_t> fallback = {}) const;
    double number(std::string_view key, std::optional<double> fallback = {}) const;
    std::string string(std::string_view key, std::optional<std::string> fallback = {}) const;
    bool boolean(std::string_view key, std::optional<bool> fallback = {}) const;
    const Strings& strings(std::string_view key) const;
    std::vector<double> numbers(std::string_view key) const;  // arrays of any numeric type
    /// Arrays of u8/i8 as bytes (a SentencePiece model stored whole).
    std::span<const std::byte> bytes(std::string_view key) const;
    bool has_bytes(std::string_view key) const { return byte_arrays_.find(key) != byte_arrays_.end(); }

    const std::vector<GgufTensor>& tensors() const { return tensors_; }
    const GgufTensor* find(std::string_view name) const;
    const GgufTensor& tensor(std::string_view name) const;  // ModelError when absent

    const std::map<std::string, Value, std::less<>>& values() const { return values_; }

private:
    struct Mapping;
    std::string path_;
    std::unique_ptr<Mapping> mapping_;
    std::map<std::string, Value, std::less<>> values_;
    struct ByteArray {
        std::span<const std::byte> data;
        bool is_signed;
    };
    // Arrays of u8/i8 stay in the file: widened they would take eight times their size. Their entry in values_ is empty.
    std::map<std::string, ByteArray, std::less<>> byte_arrays_;
    std::vector<GgufTensor> tensors_;
    std::map<std::string_view, std::size_t> index_;
};

}  // namespace glmd
