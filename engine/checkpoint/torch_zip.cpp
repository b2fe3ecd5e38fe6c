// What is peculiar: values of the pickle live in one arena and refer to each other by index, so that a hostile nesting can't
// exhaust the stack when they are freed; every instruction makes at most one value, so the size of the pickle bounds the
// memory. Storages aren't read: a tensor becomes a span of the mapped file.
#include "engine/checkpoint/torch_zip.h"

#include <cstring>
#include <map>
#include <string_view>
#include <unordered_map>

namespace glmd {
namespace {

constexpr std::size_t longest_pickle = std::size_t{64} << 20;
constexpr std::size_t most_values = std::size_t{8} << 20;

/// Bytes with checked access; whoever runs off the end gets a sentence.
class Bytes {
public:
    Bytes(std::span<const std::byte> data, std::string torn) : data_(data), torn_(std::move(torn)) {}
    std::size_t size() const { return data_.size(); }
    template <class T>
    T at(std::uint64_t offset) const {
        T value;
        std::memcpy(&value, slice(offset, sizeof value).data(), sizeof value);
        return value;
    }
    std::span<const std::byte> slice(std::uint64_t offset, std::uint64_t count) const {
        if (offset > data_.size() || count > data_.size() - offset) throw ModelError(torn_);
        return data_.subspan(offset, count);
    }
    std::string_view text(std::uint64_t offset, std::uint64_t count) const {
        const auto s = slice(offset, count);
        return {reinterpret_cast<const char*>(s.data()), s.size()};
    }

private:
    std::span<const std::byte> data_;
    std::string torn_;
};

// ---- zip

using Entries = std::map<std::string_view, std::span<const std::byte>>;

Entries read_zip(const MappedFile& file) {
    const std::string torn = file.path() + ": the zip file is cut off or damaged.";
    const Bytes zip(file.data(), torn);
    if (zip.size() >= 2 && zip.at<std::uint8_t>(0) == 0x80 && zip.at<std::uint8_t>(1) <= 5)
        throw ModelError(file.path() + ": this is PyTorch's format from before version 1.6; load and save it once with a newer PyTorch.");
    constexpr std::size_t end_bytes = 22;
    if (zip.size() < end_bytes) throw ModelError(file.path() + ": this isn't a PyTorch file.");
    // The end record stands in front of a comment of at most 65,535 bytes.
    std::uint64_t end = zip.size() - end_bytes;
    const std::uint64_t first = zip.size() > end_bytes + 65535 ? zip.size() - end_bytes - 65535 : 0;
    while (zip.at<std::uint32_t>(end) != 0x06054b50) {
        if (end == first) throw ModelError(file.path() + ": this isn't a PyTorch (zip) file, or it is cut off.");
        --end;
    }
    std::uint64_t count = zip.at<std::uint16_t>(end + 10), size = zip.at<std::uint32_t>(end + 12), at = zip.at<std::uint32_t>(end + 16);
    if (end >= 20 && zip.at<std::uint32_t>(end - 20) == 0x07064b50) {  // zip64
        const auto end64 = zip.at<std::uint64_t>(end - 12);
        zip.slice(end64, 56);
        if (zip.at<std::uint32_t>(end64) != 0x06064b50) throw ModelError(torn);
        count = zip.at<std::uint64_t>(end64 + 32);
        size = zip.at<std::uint64_t>(end64 + 40);
        at = zip.at<std::uint64_t>(end64 + 48);
    }
    const Bytes directory(zip.slice(at, size), torn);
    if (count > size / 46) throw ModelError(torn);

    Entries entries;
    std::uint64_t p = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
        directory.slice(p, 46);
        if (directory.at<std::uint32_t>(p) != 0x02014b50) throw ModelError(torn);
        const auto flags = directory.at<std::uint16_t>(p + 8), method = directory.at<std::uint16_t>(p + 10);
        std::uint64_t packed = directory.at<std::uint32_t>(p + 20), unpacked = directory.at<std::uint32_t>(p + 24);
        const std::uint64_t name_bytes = directory.at<std::uint16_t>(p + 28), extra_bytes = directory.at<std::uint16_t>(p + 30),
                            comment_bytes = directory.at<std::uint16_t>(p + 32);
        std::uint64_t local = directory.at<std::uint32_t>(p + 42);
        const auto name = directory.text(p + 46, name_bytes);
        const Bytes extra(directory.slice(p + 46 + name_bytes, extra_bytes), torn);
        for (std::uint64_t e = 0; e + 4 <= extra.size();) {
            const auto id = extra.at<std::uint16_t>(e);
            const std::uint64_t length = extra.at<std::uint16_t>(e + 2);
            if (id == 1) {  // zip64: the sizes that didn't fit, in this order
                std::uint64_t q = e + 4;
                for (auto* field : {&unpacked, &packed, &local})
                    if (*field == 0xffffffff) *field = extra.at<std::uint64_t>(q), q += 8;
            }
            e += 4 + length;
        }
        p += 46 + name_bytes + extra_bytes + comment_bytes;
        const std::string where = file.path() + ": the entry " + std::string(name.substr(0, 200));
        if (method != 0 || packed != unpacked) throw ModelError(where + " is compressed; PyTorch doesn't do that.");
        if ((flags & 1) != 0) throw ModelError(where + " is encrypted.");
        zip.slice(local, 30);
        if (zip.at<std::uint32_t>(local) != 0x04034b50) throw ModelError(torn);
        const std::uint64_t skip = 30 + std::uint64_t{zip.at<std::uint16_t>(local + 26)} + zip.at<std::uint16_t>(local + 28);
        if (!entries.emplace(name, zip.slice(local + skip, unpacked)).second) throw ModelError(where + " is there twice.");
    }
    return entries;
}

// ---- pickle

enum class Kind : std::uint8_t { nothing, boolean, integer, real, text, tuple, list, dict, global, storage, tensor };
enum class Global : std::uint8_t { ordered_dict, rebuild_tensor, rebuild_parameter, storage };
using Ref = std::uint32_t;

struct Value {
    Kind kind = Kind::nothing;
    Global global = Global::storage;
    SourceType type = SourceType::f32;  // of a storage or its class
    std::int64_t number = 0;            // integer, boolean; elements of a storage
    std::string_view text;              // text; key of a storage
    std::vector<Ref> items;             // tuple, list; dict: keys and values in turn; tensor: storage, offset, size, stride
};

class Pickle {
public:
    Pickle(const std::string& path, std::span<const std::byte> data)
        : path_(path), bytes_(data, path + ": the pickle in it is cut off.") {
        if (data.size() > longest_pickle) throw ModelError(path_ + ": its pickle is too large.");
    }

    Ref run();
    const Value& operator[](Ref r) const { return values_[r]; }
    [[noreturn]] void damaged() const { throw ModelError(path_ + ": the pickle in it is damaged."); }

private:
    std::uint8_t u8() { return next<std::uint8_t>(); }
    template <class T>
    T next() {
        const auto value = bytes_.at<T>(at_);
        at_ += sizeof(T);
        return value;
    }
    std::string_view take(std::uint64_t count) {
        const auto text = bytes_.text(at_, count);
        at_ += count;
        return text;
    }
    std::string_view line() {
        const auto rest = bytes_.text(at_, bytes_.size() - at_);
        const auto end = rest.find('\n');
        if (end == rest.npos) damaged();
        at_ += end + 1;
        return rest.substr(0, end);
    }
    Value& push(Kind kind) {
        if (values_.size() >= most_values) throw ModelError(path_ + ": the pickle in it is too large.");
        stack_.push_back(static_cast<Ref>(values_.size()));
        values_.emplace_back().kind = kind;
        return values_.back();
    }
    void push_integer(std::int64_t n) { push(Kind::integer).number = n; }
    void push_boolean(bool b) { push(Kind::boolean).number = b; }
    void push_text(std::string_view t) { push(Kind::text).text = t; }
    Ref pop() {
        if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) damaged();
        const Ref r = stack_.back();
        stack_.pop_back();
        return r;
    }
    Ref top() const {
        if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) damaged();
        return stack_.back();
    }
    std::vector<Ref> pop_to_mark() {
        if (marks_.empty()) damaged();
        std::vector<Ref> items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
        stack_.resize(marks_.back());
        marks_.pop_back();
        return items;
    }
    void tuple(std::size_t count) {
        std::vector<Ref> items(count);
        for (std::size_t i = count; i-- > 0;) items[i] = pop();
        push(Kind::tuple).items = std::move(items);
    }
    void extend(Kind kind, const std::vector<Ref>& items) {
        Value& target = values_[top()];
        if (target.kind != kind || (kind == Kind::dict && items.size() % 2 != 0)) damaged();
        target.items.insert(target.items.end(), items.begin(), items.end());
    }
    void get(std::uint32_t slot) {
        const auto found = memo_.find(slot);
        if (found == memo_.end()) damaged();
        stack_.push_back(found->second);
    }
    void global(std::string_view module, std::string_view name);
    void reduce();
    void persistent();

    std::string path_;
    Bytes bytes_;
    std::uint64_t at_ = 0;
    std::vector<Value> values_;
    std::vector<Ref> stack_;
    std::vector<std::size_t> marks_;
    std::unordered_map<std::uint32_t, Ref> memo_;
};

void Pickle::global(std::string_view module, std::string_view name) {
    const auto make = [&](Global g, SourceType type = SourceType::f32) {
        Value& v = push(Kind::global);
        v.global = g;
        v.type = type;
    };
    if (module == "collections" && name == "OrderedDict") return make(Global::ordered_dict);
    if (module == "torch._utils" && name == "_rebuild_tensor_v2") return make(Global::rebuild_tensor);
    if (module == "torch._utils" && name == "_rebuild_parameter") return make(Global::rebuild_parameter);
    if (module == "torch") {
        if (name == "FloatStorage") return make(Global::storage, SourceType::f32);
        if (name == "HalfStorage") return make(Global::storage, SourceType::f16);
        if (name == "BFloat16Storage") return make(Global::storage, SourceType::bf16);
        if (name == "CharStorage") return make(Global::storage, SourceType::i8);
        if (name == "ByteStorage") return make(Global::storage, SourceType::u8);
        if (name == "LongStorage") return make(Global::storage, SourceType::i64);
    }
    throw ModelError(path_ + ": its pickle wants " + std::string(module.substr(0, 80)) + "." + std::string(name.substr(0, 80)) +
                     "; only tensors in dictionaries are read.");
}

void Pickle::reduce() {
    const Ref arguments = pop(), callee = pop();
    if (values_[callee].kind != Kind::global || values_[arguments].kind != Kind::tuple) damaged();
    const auto items = values_[arguments].items;
    switch (values_[callee].global) {
        case Global::ordered_dict: {
            std::vector<Ref> flat;
            if (items.size() > 1) damaged();
            if (items.size() == 1) {
                if (values_[items[0]].kind != Kind::list) damaged();
                for (const Ref pair : values_[items[0]].items) {
                    const Value& v = values_[pair];
                    if ((v.kind != Kind::tuple && v.kind != Kind::list) || v.items.size() != 2) damaged();
                    flat.insert(flat.end(), v.items.begin(), v.items.end());
                }
            }
            push(Kind::dict).items = std::move(flat);
            return;
        }
        case Global::rebuild_tensor:
            if (items.size() < 4 || values_[items[0]].kind != Kind::storage || values_[items[1]].kind != Kind::integer ||
                values_[items[2]].kind != Kind::tuple || values_[items[3]].kind != Kind::tuple)
                damaged();
            push(Kind::tensor).items.assign(items.begin(), items.begin() + 4);
            return;
        case Global::rebuild_parameter:
            if (items.empty() || values_[items[0]].kind != Kind::tensor) damaged();
            stack_.push_back(items[0]);
            return;
        case Global::storage: break;
    }
    throw ModelError(path_ + ": its pickle calls a class of storages; that isn't allowed.");
}

void Pickle::persistent() {
    const Ref id = pop();
    const Value& v = values_[id];
    if (v.kind != Kind::tuple || v.items.size() != 5) damaged();
    const Value &tag = values_[v.items[0]], &type = values_[v.items[1]], &key = values_[v.items[2]], &count = values_[v.items[4]];
    if (tag.kind != Kind::text || tag.text != "storage" || type.kind != Kind::global || type.global != Global::storage ||
        key.kind != Kind::text || count.kind != Kind::integer || count.number < 0)
        damaged();
    const auto storage_type = type.type;
    const auto storage_key = key.text;
    const auto elements = count.number;
    Value& storage = push(Kind::storage);
    storage.type = storage_type;
    storage.text = storage_key;
    storage.number = elements;
}

Ref Pickle::run() {
    for (;;) {
        const std::uint8_t op = u8();
        switch (op) {
            case 0x80: if (u8() > 5) damaged(); break;                        // PROTO
            case 0x95: next<std::uint64_t>(); break;                          // FRAME
            case '.': return pop();                                           // STOP
            case '(': marks_.push_back(stack_.size()); break;                 // MARK
            case '0': pop(); break;                                           // POP
            case 'N': push(Kind::nothing); break;                             // NONE
            case 0x88: push_boolean(true); break;                             // NEWTRUE
            case 0x89: push_boolean(false); break;                            // NEWFALSE
            case 'J': push_integer(next<std::int32_t>()); break;              // BININT
            case 'K': push_integer(u8()); break;                              // BININT1
            case 'M': push_integer(next<std::uint16_t>()); break;             // BININT2
            case 0x8a: {                                                      // LONG1, little endian, two's complement
                const auto digits = take(u8());
                if (digits.size() > 8) {
                    push(Kind::real);  // larger than any size; nobody uses its value
                    break;
                }
                std::uint64_t n = !digits.empty() && (digits.back() & 0x80) ? ~std::uint64_t{0} : 0;
                std::memcpy(&n, digits.data(), digits.size());
                push_integer(static_cast<std::int64_t>(n));
                break;
            }
            case 'G': next<std::uint64_t>(), push(Kind::real); break;         // BINFLOAT
            case 'X': push_text(take(next<std::uint32_t>())); break;          // BINUNICODE
            case 0x8c: push_text(take(u8())); break;                          // SHORT_BINUNICODE
            case ')': push(Kind::tuple); break;                               // EMPTY_TUPLE
            case ']': push(Kind::list); break;                                // EMPTY_LIST
            case '}': push(Kind::dict); break;                                // EMPTY_DICT
            case 't': {                                                       // TUPLE
                auto items = pop_to_mark();
                push(Kind::tuple).items = std::move(items);
                break;
            }
            case 0x85: tuple(1); break;                                       // TUPLE1
            case 0x86: tuple(2); break;                                       // TUPLE2
            case 0x87: tuple(3); break;                                       // TUPLE3
            case 'a': {                                                       // APPEND
                const Ref item = pop();
                extend(Kind::list, {item});
                break;
            }
            case 'e': extend(Kind::list, pop_to_mark()); break;               // APPENDS
            case 's': {                                                       // SETITEM
                const Ref value = pop(), key = pop();
                extend(Kind::dict, {key, value});
                break;
            }
            case 'u': extend(Kind::dict, pop_to_mark()); break;               // SETITEMS
            case 'q': memo_[u8()] = top(); break;                             // BINPUT
            case 'r': memo_[next<std::uint32_t>()] = top(); break;            // LONG_BINPUT
            case 0x94: memo_[static_cast<std::uint32_t>(memo_.size())] = top(); break;  // MEMOIZE
            case 'h': get(u8()); break;                                       // BINGET
            case 'j': get(next<std::uint32_t>()); break;                      // LONG_BINGET
            case 'c': {                                                       // GLOBAL
                const auto module = line();
                global(module, line());
                break;
            }
            case 0x93: {                                                      // STACK_GLOBAL
                const Ref name = pop(), module = pop();
                if (values_[name].kind != Kind::text || values_[module].kind != Kind::text) damaged();
                global(values_[module].text, values_[name].text);
                break;
            }
            case 'R': reduce(); break;                                        // REDUCE
            case 'Q': persistent(); break;                                    // BINPERSID
            case 'b': {                                                       // BUILD: an OrderedDict's _metadata, not needed
                pop();
                if (values_[top()].kind != Kind::dict) damaged();
                break;
            }
            default: {
                char hex[8];
                std::snprintf(hex, sizeof hex, "0x%02x", op);
                throw ModelError(path_ + ": its pickle uses the instruction " + hex +
                                 ", which isn't one that tensors in dictionaries need.");
            }
        }
    }
}

}  // namespace

TorchFile read_torch_zip(const MappedFile& file) {
    const Entries entries = read_zip(file);
    std::string folder;
    bool found = false;
    for (const auto& [name, data] : entries)
        if (name == "data.pkl" || (name.ends_with("/data.pkl") && name.find('/') == name.size() - 9)) {
            if (found) throw ModelError(file.path() + ": there are several pickles in it.");
            found = true;
            folder = name.substr(0, name.size() - 8);
        }
    if (!found) throw ModelError(file.path() + ": this zip file isn't PyTorch's.");
    if (const auto order = entries.find(folder + "byteorder"); order != entries.end()) {
        const std::string_view text(reinterpret_cast<const char*>(order->second.data()), order->second.size());
        if (!text.starts_with("little")) throw ModelError(file.path() + ": it was written on a big-endian machine.");
    }
    Pickle pickle(file.path(), entries.at(folder + "data.pkl"));
    const Value* dict = &pickle[pickle.run()];
    if (dict->kind != Kind::dict) throw ModelError(file.path() + ": there is no dictionary of tensors in it.");

    TorchFile out;
    for (std::size_t i = 0; i + 1 < dict->items.size(); i += 2) {
        const Value &key = pickle[dict->items[i]], &value = pickle[dict->items[i + 1]];
        if (key.kind != Kind::text || key.text != "module") continue;
        if (value.kind != Kind::dict) throw ModelError(file.path() + ": its \"module\" isn't a dictionary of tensors.");
        dict = &value;
        out.module = true;
        break;
    }

    std::map<std::string_view, std::size_t> index;
    for (std::size_t i = 0; i + 1 < dict->items.size(); i += 2) {
        const Value &key = pickle[dict->items[i]], &value = pickle[dict->items[i + 1]];
        if (value.kind != Kind::tensor) continue;
        if (key.kind != Kind::text) pickle.damaged();
        const std::string where = file.path() + ": the tensor \"" + std::string(key.text.substr(0, 200)) + "\"";
        const Value &storage = pickle[value.items[0]], &offset = pickle[value.items[1]], &size = pickle[value.items[2]],
                    &stride = pickle[value.items[3]];
        if (size.items.size() != stride.items.size() || size.items.size() > 8) pickle.damaged();
        SourceTensor t;
        t.name = key.text;
        t.type = storage.type;
        for (const Ref r : size.items) {
            if (pickle[r].kind != Kind::integer) pickle.damaged();
            t.shape.push_back(pickle[r].number);
        }
        const auto bytes = tensor_bytes(t.type, t.shape);
        if (!bytes) throw ModelError(where + " has impossible dimensions.");
        std::int64_t step = 1;
        for (std::size_t d = t.shape.size(); d-- > 0;) {
            const Value& s = pickle[stride.items[d]];
            if (s.kind != Kind::integer) pickle.damaged();
            if (t.shape[d] != 1 && *bytes != 0 && s.number != step)
                throw ModelError(where + " isn't stored row by row; save it contiguous.");
            if (*bytes != 0) step *= t.shape[d];
        }
        const auto entry = entries.find(folder + "data/" + std::string(storage.text));
        std::size_t begin = 0, storage_bytes = 0, end = 0;
        if (entry == entries.end() || offset.number < 0 ||
            __builtin_mul_overflow(static_cast<std::size_t>(offset.number), bytes_of(t.type), &begin) ||
            __builtin_mul_overflow(static_cast<std::size_t>(storage.number), bytes_of(t.type), &storage_bytes) ||
            __builtin_add_overflow(begin, *bytes, &end) || end > storage_bytes || storage_bytes > entry->second.size())
            throw ModelError(where + " doesn't fit its storage; the file is cut off or damaged.");
        t.data = entry->second.subspan(begin, *bytes);
        const auto [old, fresh] = index.emplace(key.text, out.tensors.size());
        if (fresh) out.tensors.push_back(std::move(t));
        else out.tensors[old->second] = std::move(t);  // as in Python, the later one counts
    }
    return out;
}

}  // namespace glmd
