// What is peculiar: a broken sequence ends where no continuation could save it (the "maximal subpart" of the Unicode
// standard), so a stream shows U+FFFD as soon as it is certain, and as often as Python's decoder does.
#include "engine/tokenizers/utf8.h"

namespace glmd {

Utf8Step utf8_step(std::string_view text) {
    using Kind = Utf8Step::Kind;
    auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    unsigned char lead = byte(0);
    if (lead < 0x80) return {Kind::character, 1};
    std::size_t length = lead >= 0xc2 && lead <= 0xdf ? 2 : (lead & 0xf0) == 0xe0 ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
    if (length == 0) return {Kind::invalid, 1};
    for (std::size_t i = 1; i < length; ++i) {
        if (i == text.size()) return {Kind::cut, i};
        unsigned char low = 0x80;
        unsigned char high = 0xbf;
        if (i == 1) {
            if (lead == 0xe0) low = 0xa0;
            if (lead == 0xed) high = 0x9f;
            if (lead == 0xf0) low = 0x90;
            if (lead == 0xf4) high = 0x8f;
        }
        if (byte(i) < low || byte(i) > high) return {Kind::invalid, i};
    }
    return {Kind::character, length};
}

std::string take_utf8(std::string& pending, bool each_byte, bool last) {
    std::string out;
    std::string_view left = pending;
    while (!left.empty()) {
        auto [kind, length] = utf8_step(left);
        if (kind == Utf8Step::Kind::cut && !last) break;
        if (kind == Utf8Step::Kind::character) out += left.substr(0, length);
        else
            for (std::size_t i = 0; i < (each_byte ? length : 1); ++i) out += "\xef\xbf\xbd";
        left.remove_prefix(length);
    }
    pending.erase(0, pending.size() - left.size());
    return out;
}

}  // namespace glmd
