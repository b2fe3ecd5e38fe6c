// SentencePiece models (as they are, and their pieces listed), tiktoken rank files, tokenizer.json, and GPT-2's vocab.json with
// merges.txt. What is peculiar: a tiktoken file has ranks but no merges; the merge that makes a token is found by running the
// ranks below it over its bytes until two parts are left. Files in a folder are told apart by what is in them: ChatGLM's and
// GLM-4's are both called tokenizer.model.
#include "engine/checkpoint/tokenizer_files.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <unordered_map>

#include "engine/checkpoint/mapped_file.h"

namespace glmd {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::size_t largest_file = std::size_t{128} << 20;
enum Type : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

void set(TokenizerFiles& t, std::int64_t id, const std::string& text, std::int32_t type, std::int64_t limit, const std::string& where) {
    if (id < 0 || id >= limit)
        throw ModelError(where + ": the token \"" + text.substr(0, 60) + "\" has the id " + std::to_string(id) +
                         ", but the model has " + std::to_string(limit) + " rows.");
    const auto at = static_cast<std::size_t>(id);
    while (t.tokens.size() <= at) {
        t.tokens.push_back("[PAD" + std::to_string(t.tokens.size()) + "]");
        t.types.push_back(unused);
        t.scores.push_back(0);
    }
    t.tokens[at] = text;
    t.types[at] = type;
    if (type == control || type == user_defined) t.special[text] = id;
}

// ---- SentencePiece: as much of its protobuf as the lists need

class Protobuf {
public:
    Protobuf(std::string_view data, const std::string& where) : data_(data), where_(where) {}
    bool next() {
        if (data_.empty()) return false;
        const auto tag = varint();
        field = tag >> 3;
        switch (tag & 7) {
            case 0: number = varint(); break;
            case 1: text = take(8); break;
            case 2: text = take(varint()); break;
            case 5: text = take(4); break;
            default: damaged();
        }
        return true;
    }
    [[noreturn]] void damaged() const { throw ModelError(where_ + ": the SentencePiece model is damaged."); }
    std::uint64_t field = 0, number = 0;
    std::string_view text;

private:
    std::string_view take(std::uint64_t n) {
        if (n > data_.size()) damaged();
        const auto out = data_.substr(0, n);
        data_.remove_prefix(n);
        return out;
    }
    std::uint64_t varint() {
        std::uint64_t v = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const auto b = static_cast<std::uint8_t>(take(1)[0]);
            v |= std::uint64_t{b & 0x7fu} << shift;
            if (b < 0x80) return v;
        }
        damaged();
    }
    std::string_view data_;
    const std::string& where_;
};

std::int64_t list_pieces(TokenizerFiles& t, const std::string& where, std::int64_t limit) {
    std::int64_t id = t.id_offset;
    Protobuf model(t.sentencepiece, where);
    while (model.next()) {
        if (model.field == 1) {
            std::string text;
            float score = 0;
            std::uint64_t type = normal;
            Protobuf piece(model.text, where);
            while (piece.next()) {
                if (piece.field == 1) text = piece.text;
                if (piece.field == 2 && piece.text.size() == 4) std::memcpy(&score, piece.text.data(), 4);
                if (piece.field == 3) type = piece.number;
            }
            if (type < normal || type > byte) piece.damaged();
            set(t, id, text, static_cast<std::int32_t>(type), limit, where);
            t.scores[static_cast<std::size_t>(id)] = score;
            ++id;
        } else if (model.field == 3) {
            Protobuf normalizer(model.text, where);
            t.remove_extra_whitespaces = true;  // protobuf's defaults for absent fields
            while (normalizer.next()) {
                if (normalizer.field == 3) t.add_space_prefix = normalizer.number != 0;
                if (normalizer.field == 4) t.remove_extra_whitespaces = normalizer.number != 0;
            }
        }
    }
    if (id == t.id_offset) throw ModelError(where + ": there are no pieces in the SentencePiece model.");
    return id;
}

// ---- byte-level BPE

std::string utf8(std::uint32_t c) {
    if (c < 0x80) return std::string(1, static_cast<char>(c));
    return {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};  // all used here are below U+0800
}

/// GPT-2's printable stand-in for each byte.
const std::array<std::string, 256>& printable() {
    static const auto table = [] {
        std::array<std::string, 256> t;
        std::uint32_t next = 256;
        for (std::uint32_t b = 0; b < 256; ++b) {
            const bool shown = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
            t[b] = utf8(shown ? b : next++);
        }
        return t;
    }();
    return table;
}

std::string print(std::string_view bytes) {
    std::string out;
    for (const char c : bytes) out += printable()[static_cast<std::uint8_t>(c)];
    return out;
}

std::optional<std::string> from_base64(std::string_view text) {
    if (text.empty() || text.size() % 4 != 0) return {};
    std::string out;
    std::uint32_t bits = 0;
    int have = 0;
    std::size_t pad = 0;
    for (const char c : text) {
        int v = -1;
        if (c >= 'A' && c <= 'Z') v = c - 'A';
        else if (c >= 'a' && c <= 'z') v = c - 'a' + 26;
        else if (c >= '0' && c <= '9') v = c - '0' + 52;
        else if (c == '+') v = 62;
        else if (c == '/') v = 63;
        if (c == '=') {
            ++pad;
            continue;
        }
        if (v < 0 || pad > 0) return {};
        bits = bits << 6 | static_cast<std::uint32_t>(v);
        have += 6;
        if (have >= 8) {
            have -= 8;
            out += static_cast<char>(bits >> have & 0xff);
        }
    }
    if (pad > 2) return {};
    return out;
}

bool looks_like_tiktoken(std::string_view text) {
    const auto line = text.substr(0, text.find('\n'));
    const auto blank = line.find(' ');
    return blank != line.npos && blank + 1 < line.size() && from_base64(line.substr(0, blank)) &&
           line.substr(blank + 1).find_first_not_of("0123456789\r") == line.npos;
}

/// The two parts that the ranks below `rank` leave of a token.
std::optional<std::pair<std::string_view, std::string_view>> last_merge(std::string_view token, std::int64_t rank,
                                                                        const std::unordered_map<std::string_view, std::int64_t>& ranks) {
    std::vector<std::string_view> parts;
    for (std::size_t i = 0; i < token.size(); ++i) parts.push_back(token.substr(i, 1));
    while (parts.size() > 2) {
        std::int64_t best = rank;
        std::size_t at = 0;
        for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
            const auto found = ranks.find({parts[i].data(), parts[i].size() + parts[i + 1].size()});
            if (found != ranks.end() && found->second < best) best = found->second, at = i;
        }
        if (best == rank) return {};
        parts[at] = {parts[at].data(), parts[at].size() + parts[at + 1].size()};
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
    if (parts.size() != 2) return {};
    return std::pair{parts[0], parts[1]};
}

void read_tiktoken(TokenizerFiles& t, std::string_view text, const std::string& where, std::int64_t limit) {
    std::vector<std::pair<std::string, std::int64_t>> tokens;
    while (!text.empty()) {
        const auto end = std::min(text.find('\n'), text.size());
        auto line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (line.empty()) continue;
        const auto blank = line.find(' ');
        const auto bytes = from_base64(line.substr(0, std::min(blank, line.size())));
        const auto digits = blank == line.npos ? std::string_view{} : line.substr(blank + 1);
        if (!bytes || bytes->empty() || bytes->size() > 1024 || digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != digits.npos)
            throw ModelError(where + ": a line isn't a token in base64 and its rank.");
        tokens.emplace_back(*bytes, std::stoll(std::string(digits)));
    }
    std::stable_sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    std::unordered_map<std::string_view, std::int64_t> ranks;
    for (const auto& [bytes, rank] : tokens)
        if (!ranks.emplace(bytes, rank).second) throw ModelError(where + ": a token is there twice.");
    for (const auto& [bytes, rank] : tokens) {
        set(t, rank, print(bytes), normal, limit, where);
        if (bytes.size() < 2) continue;
        if (const auto pair = last_merge(bytes, rank, ranks)) t.merges.push_back(print(pair->first) + " " + print(pair->second));
    }
}

std::string_view view(const json::string& s) { return {s.data(), s.size()}; }

void read_tokenizer_json(TokenizerFiles& t, const std::string& path, std::int64_t limit) {
    json::error_code error;
    const auto document = json::parse(read_text(path, largest_file), error);
    const auto* root = error ? nullptr : document.if_object();
    const auto* model = root && root->if_contains("model") ? root->at("model").if_object() : nullptr;
    const auto* type = model ? model->if_contains("type") : nullptr;
    const auto* vocab = model ? model->if_contains("vocab") : nullptr;
    const auto* merges = model ? model->if_contains("merges") : nullptr;
    if (!vocab || !vocab->is_object() || !merges || !merges->is_array() || (type && (!type->is_string() || type->get_string() != "BPE")))
        throw ModelError(path + ": only byte-level BPE tokenizers are supported.");
    for (const auto& entry : vocab->get_object()) {
        if (!entry.value().is_int64()) throw ModelError(path + ": an id of the vocabulary isn't a number.");
        set(t, entry.value().get_int64(), std::string(entry.key().data(), entry.key().size()), normal, limit, path);
    }
    for (const auto& merge : merges->get_array()) {
        if (merge.is_string()) {
            t.merges.emplace_back(view(merge.get_string()));
        } else if (merge.is_array() && merge.get_array().size() == 2 && merge.get_array()[0].is_string() && merge.get_array()[1].is_string()) {
            t.merges.push_back(std::string(view(merge.get_array()[0].get_string())) + " " + std::string(view(merge.get_array()[1].get_string())));
        } else {
            throw ModelError(path + ": a merge isn't a pair of tokens.");
        }
    }
    const auto* added = root->if_contains("added_tokens");
    if (!added || !added->is_array()) return;
    for (const auto& token : added->get_array()) {
        const auto* o = token.if_object();
        const auto* id = o ? o->if_contains("id") : nullptr;
        const auto* content = o ? o->if_contains("content") : nullptr;
        const auto* special = o ? o->if_contains("special") : nullptr;
        if (!id || !id->is_int64() || !content || !content->is_string()) throw ModelError(path + ": an added token is damaged.");
        set(t, id->get_int64(), std::string(view(content->get_string())), special && special->is_bool() && special->get_bool() ? control : user_defined,
            limit, path);
    }
}

void read_gpt2(TokenizerFiles& t, const std::string& vocab, const std::string& merges, std::int64_t limit) {
    const auto ids = Config::read(vocab);
    for (const auto& token : ids.keys()) set(t, ids.integer(token), token, normal, limit, vocab);
    const auto text = read_text(merges, largest_file);
    for (std::size_t at = 0; at < text.size();) {
        const auto end = std::min(text.find('\n', at), text.size());
        auto line = std::string_view(text).substr(at, end - at);
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (!line.empty() && !(at == 0 && line.starts_with("#version"))) t.merges.emplace_back(line);
        at = end + 1;
    }
}

void add_decoder_tokens(TokenizerFiles& t, std::int64_t limit) {
    const auto decoder = t.config.object("added_tokens_decoder");
    auto next = static_cast<std::int64_t>(t.tokens.size());
    for (const auto& key : decoder.keys()) {
        if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != key.npos) throw ModelError(t.config.where() + ": an added token's id isn't a number.");
        const auto token = decoder.object(key);
        set(t, std::stoll(key), token.string("content"), token.boolean("special", true) ? control : user_defined, limit, t.config.where());
    }
    if (decoder.keys().empty())
        for (const auto& name : t.config.strings("additional_special_tokens"))
            if (!t.special.contains(name)) set(t, next++, name, control, limit, t.config.where());
}

bool exists(const std::string& path) {
    std::error_code error;
    return fs::is_regular_file(path, error);
}

void add_names(TokenizerFiles& t, std::int64_t first, const std::vector<const char*>& names, std::int64_t limit, const std::string& where) {
    for (const char* name : names) set(t, first++, name, control, limit, where);
}

}  // namespace

std::optional<TokenizerFiles> read_tokenizer(const std::string& folder, const TokenizerFamily& family, const std::string& chat_template,
                                             std::int64_t vocabulary) {
    using Kind = TokenizerFamily::Kind;
    TokenizerFiles t;
    std::string sentencepiece;
    bool bpe = false;
    const auto config_path = folder + "/tokenizer_config.json";
    if (exists(config_path)) t.config = Config::read(config_path);
    t.chat_template = t.config.string("chat_template");
    if (t.chat_template.empty() && exists(folder + "/chat_template.jinja")) t.chat_template = read_text(folder + "/chat_template.jinja", largest_file);

    if (family.kind == Kind::chatglm1 && exists(folder + "/ice_text.model")) {
        sentencepiece = folder + "/ice_text.model";
    } else if (family.kind == Kind::chatglm) {
        const auto model = folder + "/tokenizer.model";
        if (exists(folder + "/tokenizer.json")) {
            read_tokenizer_json(t, folder + "/tokenizer.json", vocabulary);
            bpe = true;
        } else if (exists(model)) {
            const auto text = read_text(model, largest_file);
            if (looks_like_tiktoken(text)) {
                read_tiktoken(t, text, model, vocabulary);
                add_decoder_tokens(t, vocabulary);
                bpe = true;
            } else {
                sentencepiece = model;
            }
        }
    } else if (family.kind == Kind::glm) {
        if (exists(folder + "/cog-pretrain.model")) {
            sentencepiece = folder + "/cog-pretrain.model";
        } else if (exists(folder + "/vocab.json") && exists(folder + "/merges.txt")) {
            read_gpt2(t, folder + "/vocab.json", folder + "/merges.txt", vocabulary);
            bpe = true;
        }
    }
    if (!bpe && sentencepiece.empty()) return {};

    if (bpe) {
        t.model = "gpt2";
        t.pre = family.kind == Kind::glm ? "gpt-2" : family.bpe_pre;
    } else {
        t.model = "llama";
        t.pre = family.kind == Kind::chatglm1 ? "chatglm1" : family.kind == Kind::glm ? "glm-spm" : "chatglm-spm";
        t.sentencepiece = read_text(sentencepiece, largest_file);
        if (family.kind == Kind::chatglm1) {
            // Releases before April 2023 don't say that 20,000 image tokens come first; their vocabulary does.
            constexpr std::int64_t images = 20000, real_pieces = 130000;
            t.id_offset = family.image_tokens >= 0 ? family.image_tokens
                                                   : t.config.integer("num_image_tokens", vocabulary >= images + real_pieces ? images : 0);
            if (t.id_offset < 0 || t.id_offset >= vocabulary) throw ModelError(t.config.where() + ": num_image_tokens is out of range.");
        }
        const auto end = list_pieces(t, sentencepiece, vocabulary);
        if (family.kind == Kind::chatglm1)  // ordinary pieces in the model
            for (std::size_t i = 0; i < t.tokens.size(); ++i)
                for (const char* name : {"[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<pad>", "<unk>", "</s>", "<ENC>", "<dBLOCK>"})
                    if (t.tokens[i] == name) t.special[name] = static_cast<std::int64_t>(i);
        if (family.kind == Kind::chatglm) {
            add_names(t, end, {"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"}, vocabulary, sentencepiece);
            if (chat_template != "chatglm2") add_names(t, end + 5, {"<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"}, vocabulary, sentencepiece);
        }
    }
    if (family.kind == Kind::glm) {
        const auto added = folder + "/added_tokens.json";
        if (exists(added)) {
            const auto ids = Config::read(added);
            for (const auto& name : ids.keys()) set(t, ids.integer(name), name, control, vocabulary, added);
        } else {  // the order of the original repository
            const auto end = static_cast<std::int64_t>(t.tokens.size());
            if (bpe) add_names(t, end, {"<|startofpiece|>", "<|endofpiece|>", "[CLS]", "[MASK]", "[SEP]", "[UNK]", "[gMASK]", "[sMASK]"}, vocabulary, folder);
            else
                add_names(t, end, {"<|endoftext|>", "[SEP]", "[CLS]", "[MASK]", "[UNK]", "[UNUSED1]", "<|startofpiece|>", "<|endofpiece|>", "[sMASK]", "[gMASK]"},
                          vocabulary, folder);
        }
        // GPT-2's own mark is an ordinary entry of its vocabulary.
        for (std::size_t i = 0; bpe && i < t.tokens.size(); ++i)
            if (t.tokens[i] == "<|endoftext|>") set(t, static_cast<std::int64_t>(i), t.tokens[i], control, vocabulary, folder);
    }
    set(t, vocabulary - 1, static_cast<std::int64_t>(t.tokens.size()) >= vocabulary ? t.tokens.back() : "[PAD" + std::to_string(vocabulary - 1) + "]",
        static_cast<std::int64_t>(t.tokens.size()) >= vocabulary ? t.types.back() : unused, vocabulary, folder);
    return t;
}

}  // namespace glmd
