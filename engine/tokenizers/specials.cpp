// What is peculiar: names are looked up at their first byte only, so ordinary text costs one table look per byte.
#include "engine/tokenizers/specials.h"

#include <algorithm>

namespace glmd {

namespace {

bool is_python_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f); }

}  // namespace

bool looks_like_markup(std::string_view text) {
    return text.size() > 2 && ((text.front() == '<' && text.back() == '>') || (text.front() == '[' && text.back() == ']'));
}

void SpecialTokens::add(std::string_view name, TokenId id, bool matched) {
    if (name.empty() || ids_.emplace(std::string(name), id).first->second != id || !matched) return;
    auto& names = by_first_byte_[static_cast<unsigned char>(name.front())];
    if (std::find(names.begin(), names.end(), name) != names.end()) return;
    auto place = std::find_if(names.begin(), names.end(), [&](const auto& other) { return other.size() < name.size(); });
    names.insert(place, std::string(name));
}

std::optional<TokenId> SpecialTokens::find(std::string_view name) const {
    auto found = ids_.find(name);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

std::vector<SpecialTokens::Part> SpecialTokens::split(std::string_view text, bool strip,
                                                      std::string_view exempt) const {
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
    auto strips = [&](const Part& part) { return part.id && part.text != exempt; };
    for (std::size_t i = 0; strip && i < parts.size(); ++i) {
        auto& part = parts[i].text;
        if (parts[i].id) continue;
        if (i > 0 && strips(parts[i - 1]))
            while (!part.empty() && is_python_space(part.front())) part.remove_prefix(1);
        if (i + 1 < parts.size() && strips(parts[i + 1]))
            while (!part.empty() && is_python_space(part.back())) part.remove_suffix(1);
    }
    return parts;
}

}  // namespace glmd
