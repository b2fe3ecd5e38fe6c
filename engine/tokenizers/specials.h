#pragma once
// The names a vocabulary gives to ids that are no text, and cutting them out of a text that is to be parsed for them.
#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer.h"

namespace glmd {

/// tokenizer.ggml.token_type.
enum class TokenType { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

/// "<…>" or "[…]": converters disagree whether a role mark is control or user defined, so its look decides.
bool looks_like_markup(std::string_view text);

class SpecialTokens {
public:
    /// `matched`: found in parsed text. Without it the name only answers to find(). The first id of a name stays.
    void add(std::string_view name, TokenId id, bool matched = true);
    std::optional<TokenId> find(std::string_view name) const;

    struct Part {
        std::string_view text;
        std::optional<TokenId> id;
    };
    /// The text in order, cut at every special token; the longest name wins. With `strip`, white space that touches a
    /// special token is dropped, as Python's older tokenizer classes do; not around `exempt`.
    std::vector<Part> split(std::string_view text, bool strip = false, std::string_view exempt = {}) const;

private:
    std::map<std::string, TokenId, std::less<>> ids_;
    std::array<std::vector<std::string>, 256> by_first_byte_;  // longest first
};

}  // namespace glmd
