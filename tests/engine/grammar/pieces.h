#pragma once
// A small vocabulary that has what real ones have: single bytes, pieces that straddle the parts of a value, halves of characters, two
// ids for the same bytes, ids that are no text.
#include <optional>
#include <string>
#include <vector>

#include "engine/tokenizer.h"

namespace glmd {

class Pieces final : public Tokenizer {
public:
    Pieces() {
        for (int b = 0; b < 256; ++b) pieces.emplace_back(1, static_cast<char>(b));
        for (const char* text : {"{\"", "\":", "\": ", "\",", "\", \"", "\"}", "\"]", "],", "}]", "}}", "ab", "abc", "a\"", "a\":", "name", "na", "true", "tr", "ull",
                                 "12", "123", "00", "-1", "1.", ".5", ", ", "\n  ", "\n    ", " [", " {", "[[", "[]", "中", "\xb8\xad", "\xe4\xb8", "\xa9\"", "\xc3\xa9", "\\n", "\\u",
                                 "\\\"", "d8", "tool", "_call", ">\n", "\n{"})
            pieces.emplace_back(text);
        pieces.emplace_back("a");  // as SentencePiece has bytes and letters
    }
    std::vector<TokenId> encode(std::string_view, Specials) const override { return {}; }
    std::string piece(TokenId id) const override { return id < end() ? pieces[static_cast<std::size_t>(id)] : std::string(); }
    std::optional<TokenId> special(std::string_view name) const override { return name == "<|assistant|>" ? std::optional(end() + 1) : std::nullopt; }
    bool is_special(TokenId id) const override { return id >= end(); }
    int size() const override { return end() + 3; }
    std::string decode(std::span<const TokenId> ids) const override {
        std::string out;
        for (const TokenId id : ids) out += piece(id);
        return out;
    }
    TokenId end() const { return static_cast<TokenId>(pieces.size()); }
    std::vector<std::string> pieces;
};

}  // namespace glmd
