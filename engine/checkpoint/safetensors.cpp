// What is peculiar: nothing is executed and nothing is copied; everything the directory claims (dtype, shape, offsets) is
// checked against each other and against the file.
#include "engine/checkpoint/safetensors.h"

#include <boost/json.hpp>
#include <cstring>

namespace glmd {
namespace {

namespace json = boost::json;

constexpr std::uint64_t longest_directory = 100u << 20;

SourceType type_of(const std::string& where, std::string_view name) {
    if (name == "F32") return SourceType::f32;
    if (name == "F16") return SourceType::f16;
    if (name == "BF16") return SourceType::bf16;
    if (name == "I8") return SourceType::i8;
    if (name == "U8") return SourceType::u8;
    if (name == "I64") return SourceType::i64;
    throw ModelError(where + " has the type " + std::string(name.substr(0, 20)) + ", which glmd doesn't read.");
}

std::uint64_t natural(const std::string& where, const json::value& v) {
    if (v.is_int64() && v.get_int64() >= 0) return static_cast<std::uint64_t>(v.get_int64());
    if (v.is_uint64()) return v.get_uint64();
    throw ModelError(where + " has a size that isn't a natural number.");
}

}  // namespace

std::vector<SourceTensor> read_safetensors(const MappedFile& file) {
    const auto bytes = file.data();
    std::uint64_t length = 0;
    if (bytes.size() < sizeof length) throw ModelError(file.path() + ": the file is too short to be safetensors.");
    std::memcpy(&length, bytes.data(), sizeof length);
    if (length > bytes.size() - sizeof length || length > longest_directory)
        throw ModelError(file.path() + ": this isn't a safetensors file, or it is cut off.");
    json::error_code error;
    const auto directory = json::parse({reinterpret_cast<const char*>(bytes.data()) + sizeof length, length}, error);
    if (error || !directory.is_object()) throw ModelError(file.path() + ": the directory of the file isn't a JSON object.");
    const auto tensors = bytes.subspan(sizeof length + length);

    std::vector<SourceTensor> out;
    for (const auto& entry : directory.get_object()) {
        if (entry.key() == "__metadata__") continue;
        SourceTensor t;
        t.name.assign(entry.key().data(), entry.key().size());
        const std::string where = file.path() + ": the tensor \"" + t.name.substr(0, 200) + "\"";
        const auto* object = entry.value().if_object();
        const auto* type = object ? object->if_contains("dtype") : nullptr;
        const auto* shape = object ? object->if_contains("shape") : nullptr;
        const auto* offsets = object ? object->if_contains("data_offsets") : nullptr;
        if (!type || !type->is_string() || !shape || !shape->is_array() || !offsets || !offsets->is_array() ||
            offsets->get_array().size() != 2 || shape->get_array().size() > 8)
            throw ModelError(where + " isn't described as safetensors wants it.");
        t.type = type_of(where, {type->get_string().data(), type->get_string().size()});
        for (const auto& extent : shape->get_array()) {
            const auto n = natural(where, extent);
            if (n > INT64_MAX) throw ModelError(where + " is too large.");
            t.shape.push_back(static_cast<std::int64_t>(n));
        }
        const auto begin = natural(where, offsets->get_array()[0]), end = natural(where, offsets->get_array()[1]);
        const auto size = tensor_bytes(t.type, t.shape);
        if (begin > end || end > tensors.size() || !size || *size != end - begin)
            throw ModelError(where + " doesn't fit its shape or the file; the file is cut off or damaged.");
        t.data = tensors.subspan(begin, end - begin);
        out.push_back(std::move(t));
    }
    return out;
}

}  // namespace glmd
