#pragma once
// UTF-8, strictly: no overlong forms, no surrogates, nothing beyond U+10FFFF.
#include <cstddef>
#include <string>
#include <string_view>

namespace glmd {

/// What stands at the start of a text. length is at least 1 for a text that isn't empty.
struct Utf8Step {
    enum class Kind { character, invalid, cut } kind;  // cut: the text ends inside what may still become a character
    std::size_t length;
};
Utf8Step utf8_step(std::string_view text);

/// Moves whole characters from `pending` to the result; broken sequences become U+FFFD. What may still become a character
/// stays in `pending`, unless `last`.
std::string take_utf8(std::string& pending, bool each_byte, bool last);

}  // namespace glmd
