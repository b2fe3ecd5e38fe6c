// Byte-level BPE. What is peculiar: tokens and merges are kept as the bytes they stand for, not in GPT-2's printable
// alphabet; a word is merged with a heap over a linked list, so a word of a megabyte costs n log n; \s in the patterns is
// spelt out because PCRE2's own includes U+180E, which the original implementations don't; and text that isn't UTF-8 never
// reaches PCRE2, its broken bytes are words of their own. Bytes without a token (some vocabularies lack those that UTF-8
// never uses) are dropped, as upstream does.
#include "engine/tokenizers/bpe.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <queue>
#include <unordered_map>

#include "engine/checkpoint/gguf.h"
#include "engine/tokenizers/specials.h"
#include "engine/tokenizers/utf8.h"

namespace glmd {

namespace {

#define GLMD_SPACES "\\x{9}-\\x{D} \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define GLMD_SPACE "[" GLMD_SPACES "]"
#define GLMD_NOT_SPACE "[^" GLMD_SPACES "]"
#define GLMD_MARK "[^" GLMD_SPACES "\\p{L}\\p{N}]"

constexpr const char* gpt2_pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?" GLMD_MARK "+|" GLMD_SPACE
                                     "+(?!" GLMD_NOT_SPACE ")|" GLMD_SPACE "+";
constexpr const char* glm4_pattern = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?" GLMD_MARK
                                     "+[\\r\\n]*|" GLMD_SPACE "*[\\r\\n]+|" GLMD_SPACE "+(?!" GLMD_NOT_SPACE ")|" GLMD_SPACE
                                     "+";
// Every digit alone, and what lies between them: the texts the GPT-2 pattern then sees one by one.
constexpr const char* digits_pattern = "\\p{N}|\\P{N}+";

#undef GLMD_SPACES
#undef GLMD_SPACE
#undef GLMD_NOT_SPACE
#undef GLMD_MARK

class Pattern {
public:
    explicit Pattern(const char* text) {
        int error = 0;
        PCRE2_SIZE offset = 0;
        code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text), PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, nullptr));
        if (!code_) throw ModelError("PCRE2 on this machine does not understand the tokenizer's pattern.");
        limits_.reset(pcre2_match_context_create(nullptr));
        if (!limits_) throw std::bad_alloc();
        // A run of blanks costs one step of backtracking per blank; the default limit would stop it at ten million.
        pcre2_set_match_limit(limits_.get(), 0xffffffff);
    }

    /// Calls `word` with consecutive pieces that together are `text`, which must be UTF-8.
    template <class Word>
    void split(std::string_view text, Word word) const {
        std::unique_ptr<pcre2_match_data, Free> match(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
        if (!match) throw std::bad_alloc();
        while (!text.empty()) {
            int result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                                     PCRE2_NO_UTF_CHECK, match.get(), limits_.get());
            std::size_t length = result > 0 ? pcre2_get_ovector_pointer(match.get())[1] : 0;
            if (length == 0) length = utf8_step(text).length;  // the patterns cover everything; this only guards the loop
            word(text.substr(0, length));
            text.remove_prefix(length);
        }
    }

private:
    struct Free {
        void operator()(pcre2_code* p) const { pcre2_code_free(p); }
        void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
        void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
    };
    std::unique_ptr<pcre2_code, Free> code_;
    std::unique_ptr<pcre2_match_context, Free> limits_;
};

/// GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes for U+0100 and up, in order.
std::array<int, 0x180> byte_of_character() {
    std::array<int, 0x180> table;
    table.fill(-1);
    std::size_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
        bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        table[printable ? static_cast<std::size_t>(byte) : next++] = byte;
    }
    return table;
}

/// The bytes behind a token in that alphabet; text that isn't in it stays as it is.
std::string unmapped(std::string_view token) {
    static const auto table = byte_of_character();
    std::string out;
    for (std::size_t i = 0; i < token.size();) {
        auto lead = static_cast<unsigned char>(token[i]);
        std::size_t code = lead;
        std::size_t length = 1;
        if (lead >= 0x80) {
            if ((lead & 0xe0) != 0xc0 || i + 1 == token.size()) return std::string(token);
            code = static_cast<std::size_t>(lead & 0x1f) << 6 | (static_cast<unsigned char>(token[i + 1]) & 0x3f);
            length = 2;
        }
        if (code >= table.size() || table[code] < 0) return std::string(token);
        out += static_cast<char>(table[code]);
        i += length;
    }
    return out;
}

class BpeTokenizer final : public Tokenizer {
public:
    explicit BpeTokenizer(const Gguf& file)
        : individual_digits_(pre_of(file) == Pre::smollm),
          strip_(file.boolean("glmd.tokenizer.strips_around_specials", false)),
          words_(pre_of(file) == Pre::glm4 ? glm4_pattern : gpt2_pattern),
          digits_(digits_pattern) {
        const auto& tokens = file.strings("tokenizer.ggml.tokens");
        std::vector<double> types(tokens.size(), 1);
        if (file.has("tokenizer.ggml.token_type")) types = file.numbers("tokenizer.ggml.token_type");
        if (types.size() != tokens.size())
            throw ModelError(file.path() + ": the tokenizer has " + std::to_string(tokens.size()) + " tokens but " +
                             std::to_string(types.size()) + " token types.");
        std::unordered_map<std::string, TokenId> ids;
        ids.reserve(tokens.size());
        pieces_.reserve(tokens.size());
        control_.resize(tokens.size(), false);
        byte_ids_.fill(-1);
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            auto id = static_cast<TokenId>(i);
            auto type = types[i];
            auto is = [&](TokenType t) { return type == static_cast<double>(t); };
            pieces_.emplace_back();
            if (is(TokenType::control) || (is(TokenType::user_defined) && looks_like_markup(tokens[i]))) {
                // Markup that isn't control (a tool's tag, say) is still text in an answer.
                if (is(TokenType::user_defined)) pieces_.back() = std::string(tokens[i]);
                control_[i] = is(TokenType::control);
                specials_.add(tokens[i], id);
            } else if (is(TokenType::user_defined)) {
                pieces_.back() = std::string(tokens[i]);
                literals_.add(tokens[i], id);
                specials_.add(tokens[i], id);
            } else if (!is(TokenType::unused)) {
                pieces_.back() = unmapped(tokens[i]);
                ids.emplace(pieces_.back(), id);
            }
        }
        for (std::size_t byte = 0; byte < 256; ++byte)
            if (auto found = ids.find(std::string(1, static_cast<char>(byte))); found != ids.end())
                byte_ids_[byte] = found->second;
        const auto& merges = file.strings("tokenizer.ggml.merges");
        merges_.reserve(merges.size());
        for (std::size_t rank = 0; rank < merges.size(); ++rank) {
            auto blank = merges[rank].find(' ', 1);
            if (blank == std::string_view::npos || blank + 1 >= merges[rank].size())
                throw ModelError(file.path() + ": merge " + std::to_string(rank) + " of the tokenizer isn't a pair.");
            auto left = unmapped(merges[rank].substr(0, blank));
            auto right = unmapped(merges[rank].substr(blank + 1));
            auto a = ids.find(left);
            auto b = ids.find(right);
            auto merged = ids.find(left + right);
            if (a == ids.end() || b == ids.end() || merged == ids.end()) continue;  // a merge that can never happen
            merges_.emplace(pair_key(a->second, b->second), Merge{static_cast<std::uint32_t>(rank), merged->second});
        }
    }

    std::vector<TokenId> encode(std::string_view text, Specials specials) const override {
        std::vector<TokenId> out;
        // GPT-2's own end mark keeps its neighbours, unlike those that GLM added.
        auto parts = specials == Specials::parse ? specials_.split(text, strip_, "<|endoftext|>") : literals_.split(text);
        for (const auto& part : parts) {
            if (part.id) out.push_back(*part.id);
            else encode_text(part.text, out);
        }
        return out;
    }

    std::string piece(TokenId id) const override {
        if (id < 0 || id >= size() || is_special(id)) return {};
        return pieces_[static_cast<std::size_t>(id)];
    }

    std::optional<TokenId> special(std::string_view name) const override { return specials_.find(name); }
    bool is_special(TokenId id) const override { return id >= 0 && id < size() && control_[static_cast<std::size_t>(id)]; }
    int size() const override { return static_cast<int>(pieces_.size()); }

    std::string decode(std::span<const TokenId> ids) const override {
        std::string bytes;
        for (auto id : ids) bytes += piece(id);
        return take_utf8(bytes, false, true);
    }

private:
    enum class Pre { gpt2, smollm, glm4 };
    struct Merge {
        std::uint32_t rank;
        TokenId id;
    };

    static Pre pre_of(const Gguf& file) {
        auto name = file.string("tokenizer.ggml.pre", "gpt-2");
        if (name == "gpt-2" || name == "gpt2" || name == "default") return Pre::gpt2;
        if (name == "smollm") return Pre::smollm;
        if (name == "glm4" || name == "chatglm-bpe") return Pre::glm4;
        throw ModelError(file.path() + ": the tokenizer's way to split words (tokenizer.ggml.pre) is \"" + name.substr(0, 40) +
                         "\"; supported are smollm, gpt-2, glm4 and chatglm-bpe.");
    }

    static std::uint64_t pair_key(TokenId a, TokenId b) {
        return static_cast<std::uint64_t>(static_cast<std::uint32_t>(a)) << 32 | static_cast<std::uint32_t>(b);
    }

    void encode_text(std::string_view text, std::vector<TokenId>& out) const {
        std::size_t at = 0;
        while (at < text.size()) {
            std::size_t end = at;
            while (end < text.size()) {
                auto step = utf8_step(text.substr(end));
                if (step.kind != Utf8Step::Kind::character) break;
                end += step.length;
            }
            if (end > at) encode_valid(text.substr(at, end - at), out);
            at = end;
            while (end < text.size()) {
                auto step = utf8_step(text.substr(end));
                if (step.kind == Utf8Step::Kind::character) break;
                end += step.length;
            }
            if (end > at) encode_word(text.substr(at, end - at), out);
            at = end;
        }
    }

    void encode_valid(std::string_view text, std::vector<TokenId>& out) const {
        auto word = [&](std::string_view w) { encode_word(w, out); };
        if (!individual_digits_) return words_.split(text, word);
        digits_.split(text, [&](std::string_view part) { words_.split(part, word); });
    }

    void encode_word(std::string_view word, std::vector<TokenId>& out) const {
        struct Symbol {
            TokenId id;
            std::int64_t previous;
            std::int64_t next;
        };
        struct Candidate {
            std::uint32_t rank;
            std::int64_t at;  // the left symbol
            TokenId left;     // as they were when this was found: a symbol that changed since makes it void
            TokenId right;
            TokenId merged;
            bool operator<(const Candidate& other) const {  // the heap's top: lowest rank, then leftmost
                return rank != other.rank ? rank > other.rank : at > other.at;
            }
        };
        std::vector<Symbol> symbols;
        symbols.reserve(word.size());
        for (char c : word) {
            auto id = byte_ids_[static_cast<unsigned char>(c)];
            if (id < 0) continue;
            auto at = static_cast<std::int64_t>(symbols.size());
            symbols.push_back({id, at - 1, at + 1});
        }
        if (symbols.empty()) return;
        symbols.back().next = -1;
        auto symbol = [&](std::int64_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };

        std::priority_queue<Candidate> heap;
        auto consider = [&](std::int64_t at) {
            if (at < 0 || symbol(at).next < 0) return;
            auto left = symbol(at).id;
            auto right = symbol(symbol(at).next).id;
            if (auto found = merges_.find(pair_key(left, right)); found != merges_.end())
                heap.push({found->second.rank, at, left, right, found->second.id});
        };
        for (std::int64_t i = 0; i + 1 < static_cast<std::int64_t>(symbols.size()); ++i) consider(i);
        while (!heap.empty()) {
            auto top = heap.top();
            heap.pop();
            auto& left = symbol(top.at);
            if (left.id != top.left || left.next < 0 || symbol(left.next).id != top.right) continue;
            auto& right = symbol(left.next);
            left.id = top.merged;
            left.next = right.next;
            right.id = -1;
            if (left.next >= 0) symbol(left.next).previous = top.at;
            consider(left.previous);
            consider(top.at);
        }
        for (std::int64_t i = 0; i >= 0; i = symbol(i).next) out.push_back(symbol(i).id);
    }

    bool individual_digits_;
    bool strip_;
    Pattern words_;
    Pattern digits_;
    std::vector<std::string> pieces_;
    std::vector<bool> control_;
    std::array<TokenId, 256> byte_ids_;
    std::unordered_map<std::uint64_t, Merge> merges_;
    SpecialTokens specials_;
    SpecialTokens literals_;  // user-defined runs of text that are one token wherever they stand
};

}  // namespace

std::unique_ptr<Tokenizer> load_bpe(const Gguf& file) { return std::make_unique<BpeTokenizer>(file); }

}  // namespace glmd
