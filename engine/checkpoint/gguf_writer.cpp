// What is peculiar: the directory of a GGUF file holds the offsets of all tensors, so everything is declared before the
// first byte of data; the data then streams through one buffer of a megabyte, whatever the size of the model. A patch goes
// straight to the file, whose header the first flush has written by then.
#include "engine/checkpoint/gguf_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>

#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/hashes.h"

namespace glmd {

namespace {

constexpr std::size_t buffer_bytes = std::size_t{1} << 20;

std::uint32_t ggml_id(DType type) {
    switch (type) {
        case DType::f32: return 0;
        case DType::f16: return 1;
        case DType::q4_0: return 2;
        case DType::q4_1: return 3;
        case DType::q5_0: return 6;
        case DType::q5_1: return 7;
        case DType::q8_0: return 8;
        case DType::q4_k: return 12;
        case DType::q5_k: return 13;
        case DType::q6_k: return 14;
        case DType::bf16: return 30;
    }
    throw ModelError("a tensor has a type that GGUF does not know.");
}

template <class T>
void put(std::string& out, T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out.append(bytes, sizeof(T));
}

void put_text(std::string& out, std::string_view text) {
    put<std::uint64_t>(out, text.size());
    out.append(text);
}

std::uint64_t aligned(std::uint64_t value, std::uint64_t alignment) {
    return (value + alignment - 1) / alignment * alignment;
}

[[noreturn]] void failed(const std::string& path, const char* verb) {
    throw ModelError(path + ": cannot " + verb + " the file: " + std::generic_category().message(errno) + ".");
}

}  // namespace

GgufWriter::GgufWriter(std::string path, std::uint32_t alignment) : path_(std::move(path)), alignment_(alignment) {
    if (alignment < 8 || (alignment & (alignment - 1)) != 0)
        throw ModelError(path_ + ": the alignment must be a power of two of at least 8.");
    temporary_ = path_ + ".XXXXXX";
    fd_ = ::mkostemp(temporary_.data(), O_CLOEXEC);
    if (fd_ < 0) failed(path_, "create");
    buffer_.reserve(buffer_bytes);
    if (alignment != 32) add_u32("general.alignment", alignment);
}

GgufWriter::~GgufWriter() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(temporary_.c_str());
}

void GgufWriter::key(std::string_view name, std::uint32_t type) {
    if (header_written_) throw ModelError(path_ + ": metadata cannot follow the header.");
    if (name.empty() || std::any_of(keys_.begin(), keys_.end(), [&](const Key& k) { return k.name == name; }))
        throw ModelError(path_ + ": the metadata key \"" + std::string(name) + "\" is empty or given twice.");
    if (!keys_.empty()) keys_.back().end = metadata_.size();
    put_text(metadata_, name);
    put<std::uint32_t>(metadata_, type);
    keys_.push_back({std::string(name), metadata_.size(), 0});
}

void GgufWriter::array(std::string_view name, std::uint32_t type, std::size_t count) {
    key(name, 9);
    put<std::uint32_t>(metadata_, type);
    put<std::uint64_t>(metadata_, count);
    keys_.back().begin = metadata_.size();
}

void GgufWriter::add_bool(std::string_view name, bool value) {
    key(name, 7);
    put<std::uint8_t>(metadata_, value ? 1 : 0);
}

void GgufWriter::add_u32(std::string_view name, std::uint32_t value) {
    key(name, 4);
    put(metadata_, value);
}

void GgufWriter::add_u64(std::string_view name, std::uint64_t value) {
    key(name, 10);
    put(metadata_, value);
}

void GgufWriter::add_f32(std::string_view name, float value) {
    key(name, 6);
    put(metadata_, value);
}

void GgufWriter::add_string(std::string_view name, std::string_view value) {
    key(name, 8);
    put_text(metadata_, value);
}

void GgufWriter::add_strings(std::string_view name, std::span<const std::string> values) {
    array(name, 8, values.size());
    for (const auto& value : values) put_text(metadata_, value);
}

void GgufWriter::add_i32s(std::string_view name, std::span<const std::int32_t> values) {
    array(name, 5, values.size());
    for (auto value : values) put(metadata_, value);
}

void GgufWriter::add_f32s(std::string_view name, std::span<const float> values) {
    array(name, 6, values.size());
    for (auto value : values) put(metadata_, value);
}

void GgufWriter::add_bytes(std::string_view name, std::span<const std::byte> values) {
    array(name, 0, values.size());
    metadata_.append(reinterpret_cast<const char*>(values.data()), values.size());
}

void GgufWriter::add_tensor(std::string_view name, DType type, std::span<const std::int64_t> shape) {
    if (header_written_) throw ModelError(path_ + ": tensors cannot be declared after the header.");
    const std::string what = path_ + ": the tensor \"" + std::string(name) + "\"";
    if (shape.empty() || shape.size() > 4) throw ModelError(what + " must have 1 to 4 dimensions.");
    const auto& format = traits(type);
    std::uint64_t bytes = static_cast<std::uint64_t>(format.bytes);
    for (std::size_t i = 0; i < shape.size(); ++i) {
        bool last = i + 1 == shape.size();
        if (shape[i] <= 0 || (last && shape[i] % format.block != 0)) throw ModelError(what + " has impossible dimensions.");
        auto factor = static_cast<std::uint64_t>(last ? shape[i] / format.block : shape[i]);
        if (__builtin_mul_overflow(bytes, factor, &bytes)) throw ModelError(what + " has impossible dimensions.");
    }
    put_text(directory_, name);
    put<std::uint32_t>(directory_, static_cast<std::uint32_t>(shape.size()));
    for (auto extent = shape.rbegin(); extent != shape.rend(); ++extent)
        put<std::uint64_t>(directory_, static_cast<std::uint64_t>(*extent));
    put<std::uint32_t>(directory_, ggml_id(type));
    put<std::uint64_t>(directory_, next_offset_);
    tensors_.push_back({std::string(name), bytes});
    next_offset_ = aligned(next_offset_ + bytes, alignment_);
}

void GgufWriter::write_header() {
    if (header_written_) throw ModelError(path_ + ": the header is written already.");
    if (hashing_) {
        add_bytes("glmd.hash.tensors", std::vector<std::byte>(tensors_.size() * Hash::size));
        add_bytes("glmd.hash.header", std::vector<std::byte>(Hash::size));
        hash_ = std::make_unique<Hash>();
    }
    if (!keys_.empty()) keys_.back().end = metadata_.size();
    header_written_ = true;
    std::string header = "GGUF";
    put<std::uint32_t>(header, 3);
    put<std::uint64_t>(header, tensors_.size());
    put<std::uint64_t>(header, keys_.size());
    header += metadata_;
    header += directory_;
    header.resize(aligned(header.size(), alignment_));
    header_bytes_ = header.size();
    write(std::as_bytes(std::span(header)));
    metadata_ = {};
    directory_ = {};
}

void GgufWriter::append(std::span<const std::byte> data) {
    if (!header_written_) throw ModelError(path_ + ": the header must come before the data.");
    while (!data.empty()) {
        if (current_ == tensors_.size()) throw ModelError(path_ + ": there is more data than was declared.");
        auto bytes = tensors_[current_].bytes;
        auto count = std::min<std::uint64_t>(data.size(), bytes - written_of_current_);
        write(data.first(count));
        if (hash_) hash_->add(data.first(count));
        data = data.subspan(count);
        written_of_current_ += count;
        if (written_of_current_ < bytes) return;
        if (hash_) {
            const auto digest = std::exchange(hash_, std::make_unique<Hash>())->finish();
            hashes_.insert(hashes_.end(), digest.begin(), digest.end());
        }
        const std::vector<std::byte> padding(aligned(bytes, alignment_) - bytes);
        write(padding);
        ++current_;
        written_of_current_ = 0;
    }
}

void GgufWriter::complete() {
    if (!header_written_) write_header();
    if (current_ != tensors_.size())
        throw ModelError(path_ + ": the data of the tensor \"" + tensors_[current_].name + "\" is not complete.");
    flush();
}

void GgufWriter::patch(std::string_view key, std::span<const std::byte> value) {
    const auto found = std::find_if(keys_.begin(), keys_.end(), [&](const Key& k) { return k.name == key; });
    if (!header_written_ || found == keys_.end() || found->end - found->begin != value.size())
        throw ModelError(path_ + ": there is no room for the metadata key \"" + std::string(key) + "\".");
    constexpr std::uint64_t before_metadata = 24;  // magic, version, two counts
    write_at(before_metadata + found->begin, value);
}

void GgufWriter::finish() {
    complete();
    if (hashing_) {
        patch("glmd.hash.tensors", hashes_);
        std::vector<std::byte> header(header_bytes_);
        for (std::size_t done = 0; done < header.size();) {
            const auto n = ::pread(fd_, header.data() + done, header.size() - done, static_cast<off_t>(done));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) failed(path_, "read back");
            done += static_cast<std::size_t>(n);
        }
        Hash hash;
        hash.add(header);
        patch("glmd.hash.header", hash.finish());
    }
    if (::fchmod(fd_, 0644) != 0 || ::fsync(fd_) != 0) failed(path_, "write");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) failed(path_, "rename");
    ::close(fd_);
    fd_ = -1;
    // The name itself is on the disk only when the folder is.
    auto slash = path_.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
    if (int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); fd >= 0) {
        ::fsync(fd);
        ::close(fd);
    }
}

void GgufWriter::write(std::span<const std::byte> data) {
    while (!data.empty()) {
        auto count = std::min(data.size(), buffer_bytes - buffer_.size());
        buffer_.insert(buffer_.end(), data.begin(), data.begin() + static_cast<std::ptrdiff_t>(count));
        data = data.subspan(count);
        if (buffer_.size() == buffer_bytes) flush();
    }
}

void GgufWriter::write_at(std::uint64_t offset, std::span<const std::byte> data) {
    while (!data.empty()) {
        const auto n = ::pwrite(fd_, data.data(), data.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) failed(path_, "write");
        offset += static_cast<std::uint64_t>(n);
        data = data.subspan(static_cast<std::size_t>(n));
    }
}

void GgufWriter::flush() {
    std::size_t done = 0;
    while (done < buffer_.size()) {
        auto count = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) failed(path_, "write");
        done += static_cast<std::size_t>(count);
    }
    buffer_.clear();
}

void copy_metadata(GgufWriter& writer, const Gguf& file, const std::function<bool(std::string_view key)>& skip) {
    for (const auto& [key, value] : file.values()) {
        if (skip(key)) continue;
        if (file.has_bytes(key)) {
            writer.add_bytes(key, file.bytes(key));
            continue;
        }
        if (const auto* v = std::get_if<bool>(&value)) writer.add_bool(key, *v);
        else if (const auto* v = std::get_if<std::int64_t>(&value)) { if (*v >= 0) writer.add_u64(key, static_cast<std::uint64_t>(*v)); }
        else if (const auto* v = std::get_if<std::uint64_t>(&value)) writer.add_u64(key, *v);
        else if (const auto* v = std::get_if<double>(&value)) writer.add_f32(key, static_cast<float>(*v));
        else if (const auto* v = std::get_if<std::string_view>(&value)) writer.add_string(key, *v);
        else if (const auto* v = std::get_if<std::vector<std::int64_t>>(&value))
            writer.add_i32s(key, std::vector<std::int32_t>(v->begin(), v->end()));
        else if (const auto* v = std::get_if<std::vector<double>>(&value))
            writer.add_f32s(key, std::vector<float>(v->begin(), v->end()));
        else if (const auto* v = std::get_if<Gguf::Strings>(&value))
            writer.add_strings(key, std::vector<std::string>(v->begin(), v->end()));
    }
}

}  // namespace glmd
