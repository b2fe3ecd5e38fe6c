// What is peculiar: upstream's GLM never runs the last token of an answer that hit its limit, so no later answer sees it; nor
// does it run an end token. Here every prompt is made of exactly the rows that upstream has in its cache by then.
#include "engine/infill.h"

#include <algorithm>

namespace glmd {
namespace {

constexpr std::string_view blanks = " \t\n\v\f\r";

std::string_view trimmed(std::string_view text, bool front, bool back) {
    if (front) text.remove_prefix(std::min(text.find_first_not_of(blanks), text.size()));
    if (back) text = text.substr(0, text.find_last_not_of(blanks) + 1);
    return text;
}

}  // namespace

BlankText cut_at_blanks(std::string_view text, std::string_view marker) {
    BlankText cut;
    std::string piece;
    for (std::size_t at = 0; at < text.size();) {
        const std::string_view rest = text.substr(at);
        std::size_t kind = 0;
        std::string_view name = marker;
        if (marker.empty()) {
            kind = std::find_if(blank_names.begin(), blank_names.end(), [&](auto n) { return rest.starts_with(n); }) - blank_names.begin();
            name = kind < blank_names.size() ? blank_names[kind] : "";
        }
        if (name.empty() || !rest.starts_with(name)) {
            piece += text[at++];
            continue;
        }
        cut.texts.push_back(std::move(piece));
        cut.kinds.push_back(static_cast<BlankKind>(kind));
        piece.clear();
        at += name.size();
    }
    cut.texts.push_back(std::move(piece));
    return cut;
}

Infill::Infill(BlankRules rules, std::vector<TokenId> context, std::vector<int> masks)
    : rules_(std::move(rules)), ids_(std::move(context)), masks_(std::move(masks)) {}

Infill::Infill(BlankRules rules, const Tokenizer& tokenizer, const BlankText& text) : rules_(std::move(rules)) {
    if (rules_.first >= 0) ids_.push_back(rules_.first);
    for (std::size_t i = 0; i < text.texts.size(); ++i) {
        const bool last = i == text.kinds.size();
        const std::string_view part = trimmed(text.texts[i], rules_.strip && i > 0, rules_.strip && !last);
        if (!part.empty())
            for (const TokenId id : tokenizer.encode(part, Specials::as_text)) ids_.push_back(id);
        if (last) break;
        masks_.push_back(static_cast<int>(ids_.size()));
        ids_.push_back(rules_.id(text.kinds[i]));
    }
    const bool bare = !masks_.empty() && masks_.back() + 1 == static_cast<int>(ids_.size()) &&
                      std::find(rules_.bare.begin(), rules_.bare.end(), ids_.back()) != rules_.bare.end();
    if (rules_.last >= 0 && !bare) ids_.push_back(rules_.last);
}

std::vector<TokenId> Infill::prompt() const {
    std::vector<TokenId> ids = ids_;
    ids.push_back(rules_.start);
    return ids;
}

std::vector<BlankRows> Infill::rows() const {
    std::vector<BlankRows> rows = rows_;
    rows.push_back({masks_[next_], static_cast<int>(ids_.size())});
    return rows;
}

int Infill::room(int context) const {
    const int left = static_cast<int>(masks_.size() - next_);
    const int starts = rules_.answers_follow ? left : 1;
    return (context - static_cast<int>(ids_.size()) - starts) / left;
}

void Infill::fill(std::span<const TokenId> answer, bool cut) {
    const int mask = masks_[next_];
    if (rules_.answers_follow) {
        rows_.push_back({mask, static_cast<int>(ids_.size())});
        ids_.push_back(rules_.start);
        if (cut && !answer.empty()) answer = answer.first(answer.size() - 1);
        ids_.insert(ids_.end(), answer.begin(), answer.end());
    } else {
        ids_.insert(ids_.erase(ids_.begin() + mask), answer.begin(), answer.end());
        for (std::size_t i = next_ + 1; i < masks_.size(); ++i) masks_[i] += static_cast<int>(answer.size()) - 1;
    }
    ++next_;
}

}  // namespace glmd
