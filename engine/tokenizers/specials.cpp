// What is peculiar: names are looked up at their first byte only, so ordinary text costs one table look per byte.
#include "engine/tokenizers/specials.h"

#include <algorithm>

namespace glmd {

bool looks_like_markup(std::string_view text) {
    return text.size() > 2 && ((text.front() == '<' && text.back() == '>') || (text.front() == '[' && text.back() == ']'));
}

void SpecialTokens::add(std::string_view name, TokenId id, bool matched) {
    if (name.empty() || !ids_.emplace(std::string(name), id).second || !matched) return;
    auto& names = by_first_byte_[static_cast<unsigned char>(name.front())];
    auto place = std::find_if(names.begin(), names.end(), [&](const auto& other) { return other.size() < name.size(); });
    names.insert(place, std::string(name));
}

std::optional<TokenId> SpecialTokens::find(std::string_view name) const {
    auto found = ids_.find(name);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

std::vector<SpecialTokens::Part> SpecialTokens::split(std::string_view text) const {
    std::vector<Part> parts;
    std::size_t begin = 0;
    for (std::size_t at = 0; at < text.size();) {
        const auto& names = by_first_byte_[static_cast<unsigned char>(text[at])];
        auto name = std::find_if(names.begin(), names.end(), [&](const auto& n) { return text.substr(at).starts_with(n); });
        if (name == names.end()) {
            ++at;
            continue;
        }
        if (at > begin) parts.push_back({text.substr(begin, at - begin), std::nullopt});
        parts.push_back({text.substr(at, name->size()), ids_.at(*name)});
        at += name->size();
        begin = at;
    }
    if (begin < text.size()) parts.push_back({text.substr(begin), std::nullopt});
    return parts;
}

}  // namespace glmd
