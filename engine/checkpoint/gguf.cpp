// Reads the directory of a GGUF file in one pass over the mapping. What is peculiar: nothing in the file is believed. The
// cursor hands out bytes only after comparing with what is left, products go through checked arithmetic, and an array's
// count is compared with the bytes its elements need at least before anything is allocated for it. Names from the file
// are escaped before they enter an error message. A file that is cut while it is mapped still ends in SIGBUS: models are
// replaced by rename (gguf_writer.cpp), never rewritten in place.
#include "engine/checkpoint/gguf.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <system_error>

namespace glmd {

static_assert(std::endian::native == std::endian::little, "the reader copies little-endian numbers as they are");

namespace {

constexpr std::uint64_t max_array = std::uint64_t{1} << 24;  // elements of a number or string array in the metadata
constexpr std::uint64_t max_alignment = std::uint64_t{1} << 20;
constexpr std::uint64_t max_key_bytes = 65535;
constexpr std::uint64_t max_tensor_name_bytes = 256;
constexpr std::uint64_t min_pair_bytes = 8 + 1 + 4 + 1;         // key length, key, type, value
constexpr std::uint64_t min_tensor_bytes = 8 + 1 + 4 + 8 + 4 + 8;  // name length, name, dims, one dim, type, offset

enum class Kind : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (char c : text.substr(0, 80)) {
        auto byte = static_cast<unsigned char>(c);
        out += byte >= 0x20 && byte < 0x7f ? c : '?';
    }
    return out + (text.size() > 80 ? "…\"" : "\"");
}

std::uint64_t bytes_of(Kind kind) {
    switch (kind) {
        case Kind::u8: case Kind::i8: case Kind::boolean: return 1;
        case Kind::u16: case Kind::i16: return 2;
        case Kind::u32: case Kind::i32: case Kind::f32: return 4;
        case Kind::u64: case Kind::i64: case Kind::f64: case Kind::string: return 8;
        case Kind::array: break;
    }
    return 12;
}

std::optional<DType> dtype_of(std::uint32_t id) {
    switch (id) {
        case 0: return DType::f32;
        case 1: return DType::f16;
        case 2: return DType::q4_0;
        case 3: return DType::q4_1;
        case 6: return DType::q5_0;
        case 7: return DType::q5_1;
        case 8: return DType::q8_0;
        case 12: return DType::q4_k;
        case 13: return DType::q5_k;
        case 14: return DType::q6_k;
        case 30: return DType::bf16;
        default: return std::nullopt;
    }
}

std::string ggml_name(std::uint32_t id) {
    constexpr std::array<const char*, 40> names = {
        "F32",     "F16",     "Q4_0",    "Q4_1",   "Q4_2",  "Q4_3",   "Q5_0",     "Q5_1",     "Q8_0",     "Q8_1",
        "Q2_K",    "Q3_K",    "Q4_K",    "Q5_K",   "Q6_K",  "Q8_K",   "IQ2_XXS",  "IQ2_XS",   "IQ3_XXS",  "IQ1_S",
        "IQ4_NL",  "IQ3_S",   "IQ2_S",   "IQ4_XS", "I8",    "I16",    "I32",      "I64",      "F64",      "IQ1_M",
        "BF16",    "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};
    return id < names.size() ? names[id] : "number " + std::to_string(id);
}

std::uint64_t multiply(std::uint64_t a, std::uint64_t b, const std::string& what) {
    std::uint64_t product = 0;
    if (__builtin_mul_overflow(a, b, &product)) throw ModelError(what);
    return product;
}

class Cursor {
public:
    Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

    std::size_t position() const { return at_; }
    std::uint64_t left() const { return bytes_.size() - at_; }
    [[noreturn]] void fail(const std::string& sentence) const { throw ModelError(path_ + ": " + sentence); }

    std::span<const std::byte> take(std::uint64_t count, const std::string& what) {
        if (count > left()) fail("the file ends inside " + what + "; it is torn or was not downloaded completely.");
        auto piece = bytes_.subspan(at_, count);
        at_ += count;
        return piece;
    }
    template <class T>
    T number(const std::string& what) {
        T value;
        std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
        return value;
    }
    std::string_view text(const std::string& what) {
        auto length = number<std::uint64_t>(what);
        auto piece = take(length, what);
        return {reinterpret_cast<const char*>(piece.data()), piece.size()};
    }

private:
    std::span<const std::byte> bytes_;
    const std::string& path_;
    std::size_t at_ = 0;
};

bool checked_bool(Cursor& in, const std::string& what) {
    auto value = in.number<std::uint8_t>(what);
    if (value > 1) in.fail(what + " is a truth value that is neither 0 nor 1.");
    return value == 1;
}

Kind checked_kind(Cursor& in, const std::string& what) {
    auto kind = in.number<std::uint32_t>(what);
    if (kind > static_cast<std::uint32_t>(Kind::f64))
        in.fail(what + " has the unknown value type " + std::to_string(kind) + ".");
    return static_cast<Kind>(kind);
}

std::int64_t integer_of(Cursor& in, Kind kind, const std::string& what) {
    switch (kind) {
        case Kind::u8: return in.number<std::uint8_t>(what);
        case Kind::i8: return in.number<std::int8_t>(what);
        case Kind::u16: return in.number<std::uint16_t>(what);
        case Kind::i16: return in.number<std::int16_t>(what);
        case Kind::u32: return in.number<std::uint32_t>(what);
        case Kind::i32: return in.number<std::int32_t>(what);
        case Kind::i64: return in.number<std::int64_t>(what);
        case Kind::boolean: return checked_bool(in, what) ? 1 : 0;
        case Kind::u64: {
            auto value = in.number<std::uint64_t>(what);
            if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
                in.fail(what + " holds a number beyond 63 bits.");
            return static_cast<std::int64_t>(value);
        }
        default: in.fail(what + " isn't an integer.");
    }
}

}  // namespace

struct Gguf::Mapping {
    const std::byte* base = nullptr;
    std::size_t size = 0;

    explicit Mapping(const std::string& path) {
        auto failed = [&](const char* verb) {
            throw ModelError(path + ": cannot " + verb + " the model file: " + std::generic_category().message(errno) + ".");
        };
        int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) failed("open");
        struct stat info {};
        int error = ::fstat(fd, &info) != 0 ? errno : 0;
        if (error == 0 && S_ISREG(info.st_mode) && info.st_size > 0) {
            size = static_cast<std::size_t>(info.st_size);
            void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
            if (address == MAP_FAILED) error = errno;
            else base = static_cast<const std::byte*>(address);
        }
        ::close(fd);
        if (error != 0) {
            errno = error;
            failed("read");
        }
        if (!S_ISREG(info.st_mode)) throw ModelError(path + ": a model must be a regular file.");
        if (size == 0) throw ModelError(path + ": the model file is empty.");
    }
    ~Mapping() {
        if (base != nullptr) ::munmap(const_cast<std::byte*>(base), size);
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
};

std::int64_t GgufTensor::elements() const {
    std::int64_t product = 1;  // the reader has checked that this fits
    for (auto extent : shape) product *= extent;
    return product;
}

Gguf::Gguf(const std::string& path) : path_(path), mapping_(std::make_unique<Mapping>(path)) {
    std::span<const std::byte> file{mapping_->base, mapping_->size};
    Cursor in(file, path_);

    auto magic = in.number<std::uint32_t>("the header");
    if (magic == 0x47475546) in.fail("this is a big-endian GGUF file, which is not supported.");
    if (magic != 0x46554747) in.fail("this is not a GGUF file.");
    auto version = in.number<std::uint32_t>("the header");
    if ((version & 0xffff) == 0 && version != 0) in.fail("this is a big-endian GGUF file, which is not supported.");
    if (version != 2 && version != 3) in.fail("GGUF version " + std::to_string(version) + " is not supported, only 2 and 3.");
    auto tensor_count = in.number<std::uint64_t>("the header");
    auto pair_count = in.number<std::uint64_t>("the header");
    if (pair_count > in.left() / min_pair_bytes)
        in.fail("the header claims " + std::to_string(pair_count) + " metadata entries, more than fit in the file.");
    if (tensor_count > in.left() / min_tensor_bytes)
        in.fail("the header claims " + std::to_string(tensor_count) + " tensors, more than fit in the file.");

    for (std::uint64_t i = 0; i < pair_count; ++i) {
        auto key = in.text("a metadata key");
        if (key.empty() || key.size() > max_key_bytes) in.fail("a metadata key has a length that is not allowed.");
        const std::string what = "the metadata entry " + quoted(key);
        auto kind = checked_kind(in, what);
        Value value;
        switch (kind) {
            case Kind::boolean: value = checked_bool(in, what); break;
            case Kind::f32: value = static_cast<double>(in.number<float>(what)); break;
            case Kind::f64: value = in.number<double>(what); break;
            case Kind::u64: value = in.number<std::uint64_t>(what); break;
            case Kind::string: value = in.text(what); break;
            case Kind::array: {
                auto element = checked_kind(in, what);
                auto count = in.number<std::uint64_t>(what);
                if (element == Kind::array) in.fail(what + " is an array of arrays, which is not supported.");
                if (count > in.left() / bytes_of(element))
                    in.fail(what + " claims " + std::to_string(count) + " elements, more than fit in the file.");
                if (element == Kind::u8 || element == Kind::i8) {
                    byte_arrays_[std::string(key)] = {in.take(count, what), element == Kind::i8};
                    value = std::vector<std::int64_t>{};
                    break;
                }
                if (count > max_array) in.fail(what + " has " + std::to_string(count) + " elements, which is too many.");
                if (element == Kind::string) {
                    Strings strings;
                    strings.reserve(count);
                    for (std::uint64_t k = 0; k < count; ++k) strings.push_back(in.text(what));
                    value = std::move(strings);
                } else if (element == Kind::f32 || element == Kind::f64) {
                    std::vector<double> numbers(count);
                    for (auto& x : numbers)
                        x = element == Kind::f32 ? static_cast<double>(in.number<float>(what)) : in.number<double>(what);
                    value = std::move(numbers);
                } else {
                    std::vector<std::int64_t> numbers(count);
                    for (auto& x : numbers) x = integer_of(in, element, what);
                    value = std::move(numbers);
                }
                break;
            }
            default: value = integer_of(in, kind, what); break;
        }
        if (!values_.emplace(std::string(key), std::move(value)).second) in.fail(what + " appears twice.");
    }

    std::uint64_t alignment = 32;
    if (has("general.alignment")) {
        auto stored = integer("general.alignment");
        if (stored < 8 || static_cast<std::uint64_t>(stored) > max_alignment ||
            !std::has_single_bit(static_cast<std::uint64_t>(stored)))
            in.fail("general.alignment is " + std::to_string(stored) + ", but must be a power of two from 8 to 1048576.");
        alignment = static_cast<std::uint64_t>(stored);
    }

    struct Place {
        std::uint64_t offset;
        std::uint64_t bytes;
    };
    std::vector<Place> places;
    tensors_.reserve(tensor_count);
    places.reserve(tensor_count);
    for (std::uint64_t i = 0; i < tensor_count; ++i) {
        auto name = in.text("a tensor's name");
        if (name.empty() || name.size() > max_tensor_name_bytes) in.fail("a tensor's name has a length that is not allowed.");
        const std::string what = "the tensor " + quoted(name);
        auto dims = in.number<std::uint32_t>(what);
        if (dims == 0 || dims > 4) in.fail(what + " has " + std::to_string(dims) + " dimensions; 1 to 4 are supported.");
        GgufTensor tensor;
        tensor.name = std::string(name);
        std::uint64_t elements = 1;
        for (std::uint32_t d = 0; d < dims; ++d) {
            auto extent = in.number<std::uint64_t>(what);
            if (extent == 0) in.fail(what + " has a dimension of size 0.");
            elements = multiply(elements, extent, path_ + ": " + what + " has impossible dimensions.");
            if (elements > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
                in.fail(what + " has impossible dimensions.");
            tensor.shape.push_back(static_cast<std::int64_t>(extent));
        }
        std::reverse(tensor.shape.begin(), tensor.shape.end());
        auto type = in.number<std::uint32_t>(what);
        auto known = dtype_of(type);
        if (!known) in.fail(what + " is stored as GGML type " + ggml_name(type) + ", which is not supported.");
        tensor.type = *known;
        const auto& format = traits(tensor.type);
        auto block = static_cast<std::uint64_t>(format.block);
        if (static_cast<std::uint64_t>(tensor.cols()) % block != 0)
            in.fail(what + " has rows of " + std::to_string(tensor.cols()) + " elements, not a multiple of the " +
                    std::to_string(block) + " of its type " + format.name + ".");
        auto bytes = multiply(elements / block, static_cast<std::uint64_t>(format.bytes),
                              path_ + ": " + what + " has impossible dimensions.");
        auto offset = in.number<std::uint64_t>(what);
        if (offset % alignment != 0)
            in.fail(what + " starts at offset " + std::to_string(offset) + ", which is not a multiple of the alignment " +
                    std::to_string(alignment) + ".");
        places.push_back({offset, bytes});
        tensors_.push_back(std::move(tensor));
    }

    // An absolute start beyond the end is an error only if there is something to start.
    std::uint64_t start = (in.position() + alignment - 1) / alignment * alignment;
    std::uint64_t room = start <= file.size() ? file.size() - start : 0;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
        auto [offset, bytes] = places[i];
        if (offset > room || bytes > room - offset)
            in.fail("the data of tensor " + quoted(tensors_[i].name) +
                    " lies beyond the end of the file; it is torn or was not downloaded completely.");
        tensors_[i].data = file.subspan(start + offset, bytes);
        if (!index_.emplace(tensors_[i].name, i).second) in.fail("the tensor " + quoted(tensors_[i].name) + " appears twice.");
    }
    std::vector<std::size_t> order(tensors_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](auto a, auto b) { return places[a].offset < places[b].offset; });
    for (std::size_t i = 1; i < order.size(); ++i) {
        const auto& before = places[order[i - 1]];
        if (before.offset + before.bytes > places[order[i]].offset)
            in.fail("the tensors " + quoted(tensors_[order[i - 1]].name) + " and " + quoted(tensors_[order[i]].name) +
                    " overlap.");
    }
}

Gguf::~Gguf() = default;

std::size_t Gguf::file_bytes() const { return mapping_->size; }

std::span<const std::byte> Gguf::contents() const { return {mapping_->base, mapping_->size}; }

namespace {

[[noreturn]] void missing(const Gguf& file, std::string_view key) {
    throw ModelError(file.path() + ": the metadata entry " + quoted(key) + " is missing.");
}

[[noreturn]] void mistyped(const Gguf& file, std::string_view key, const char* wanted) {
    throw ModelError(file.path() + ": the metadata entry " + quoted(key) + " should be " + wanted + ".");
}

const Gguf::Value* lookup(const Gguf& file, std::string_view key) {
    auto found = file.values().find(key);
    return found == file.values().end() ? nullptr : &found->second;
}

}  // namespace

std::int64_t Gguf::integer(std::string_view key, std::optional<std::int64_t> fallback) const {
    const auto* value = lookup(*this, key);
    if (value == nullptr) {
        if (!fallback) missing(*this, key);
        return *fallback;
    }
    if (const auto* x = std::get_if<std::int64_t>(value)) return *x;
    if (const auto* x = std::get_if<std::uint64_t>(value))
        if (*x <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return static_cast<std::int64_t>(*x);
    mistyped(*this, key, "an integer below 2^63");
}

double Gguf::number(std::string_view key, std::optional<double> fallback) const {
    const auto* value = lookup(*this, key);
    if (value == nullptr) {
        if (!fallback) missing(*this, key);
        return *fallback;
    }
    if (const auto* x = std::get_if<double>(value))
        if (std::isfinite(*x)) return *x;
    if (const auto* x = std::get_if<std::int64_t>(value)) return static_cast<double>(*x);
    if (const auto* x = std::get_if<std::uint64_t>(value)) return static_cast<double>(*x);
    mistyped(*this, key, "a finite number");
}

std::string Gguf::string(std::string_view key, std::optional<std::string> fallback) const {
    const auto* value = lookup(*this, key);
    if (value == nullptr) {
        if (!fallback) missing(*this, key);
        return *fallback;
    }
    if (const auto* x = std::get_if<std::string_view>(value)) return std::string(*x);
    mistyped(*this, key, "a string");
}

bool Gguf::boolean(std::string_view key, std::optional<bool> fallback) const {
    const auto* value = lookup(*this, key);
    if (value == nullptr) {
        if (!fallback) missing(*this, key);
        return *fallback;
    }
    if (const auto* x = std::get_if<bool>(value)) return *x;
    mistyped(*this, key, "a truth value");
}

const Gguf::Strings& Gguf::strings(std::string_view key) const {
    const auto* value = lookup(*this, key);
    if (value == nullptr) missing(*this, key);
    if (const auto* x = std::get_if<Strings>(value)) return *x;
    mistyped(*this, key, "an array of strings");
}

std::vector<double> Gguf::numbers(std::string_view key) const {
    if (auto found = byte_arrays_.find(key); found != byte_arrays_.end()) {
        const auto& [data, is_signed] = found->second;
        if (data.size() > max_array) mistyped(*this, key, "a shorter array of numbers");
        std::vector<double> out;
        out.reserve(data.size());
        for (auto byte : data)
            out.push_back(is_signed ? static_cast<double>(static_cast<std::int8_t>(byte)) : std::to_integer<int>(byte));
        return out;
    }
    const auto* value = lookup(*this, key);
    if (value == nullptr) missing(*this, key);
    if (const auto* x = std::get_if<std::vector<double>>(value)) return *x;
    if (const auto* x = std::get_if<std::vector<std::int64_t>>(value)) return {x->begin(), x->end()};
    mistyped(*this, key, "an array of numbers");
}

std::span<const std::byte> Gguf::bytes(std::string_view key) const {
    if (auto found = byte_arrays_.find(key); found != byte_arrays_.end()) return found->second.data;
    if (!has(key)) missing(*this, key);
    mistyped(*this, key, "an array of bytes");
}

const GgufTensor* Gguf::find(std::string_view name) const {
    auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
}

const GgufTensor& Gguf::tensor(std::string_view name) const {
    const auto* found = find(name);
    if (found == nullptr) throw ModelError(path_ + ": the tensor " + quoted(name) + " is missing.");
    return *found;
}

}  // namespace glmd
