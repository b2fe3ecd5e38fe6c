// What makes it cheap to be wrong: a guess is judged by the next token whether it was verified or not, so that nothing needs to
// be tried to learn what it is worth.
#include "engine/speculation.h"

#include <algorithm>

namespace glmd {
namespace {

constexpr int least_match = 2, longest_match = 16, edited_match = 4;
constexpr double prior_weight = 2, memory = 0.95;     // of guesses and how they fared
constexpr double first_copying = 0.3, copying_memory = 0.92;
constexpr std::array rates_of_own_words{0.05, 0.05, 0.1, 0.25, 0.4, 0.6, 0.8}, rates_of_copies{0.6, 0.6, 0.75, 0.85, 0.9, 0.95, 0.97};
constexpr double worth = 1.05;                        // expected gain below which a guess isn't verified
constexpr double patience = 0.97;                     // of its speed that a sequence keeps beside others' guesses
constexpr double optimism = 0.02;                     // of a step's time for one more row, while unknown
constexpr int warm_ups = 2;                           // steps of a shape that a GPU first runs, then records
constexpr double rise = 0.1, fall = 0.3, drift = 0.0002;

}  // namespace

PromptLookup::PromptLookup(std::span<const TokenId> prompt) : tokens_(prompt.begin(), prompt.end()), copying_(first_copying) {
    search();
}

std::size_t PromptLookup::rate_of(int match) {
    return match <= 3 ? std::size_t(match - 1) : match <= 5 ? 3 : match <= 8 ? 4 : match <= 15 ? 5 : 6;
}

/// An answer that copies goes on with it after every short match, one in its own words doesn't: what guesses of all kinds came to
/// lately is what one kind begins with.
double PromptLookup::chance(int match) const {
    const std::size_t kind = rate_of(match);
    const double prior = rates_of_own_words[kind] + copying_ * (rates_of_copies[kind] - rates_of_own_words[kind]);
    return (rates_[kind].right + prior_weight * prior) / (rates_[kind].tried + prior_weight);
}

void PromptLookup::search() {
    match_ = 0;
    const std::size_t n = tokens_.size();
    if (n < least_match + 1) return;
    for (std::size_t end = n - 1; end-- > 1 && match_ < longest_match;) {  // where an earlier occurrence ends
        if (tokens_[end] != tokens_[n - 1] || tokens_[end - 1] != tokens_[n - 2]) continue;
        const std::size_t most = std::min<std::size_t>(longest_match, end + 1);
        std::size_t same = least_match;
        while (same < most && tokens_[end - same] == tokens_[n - 1 - same]) ++same;
        if (static_cast<int>(same) > match_) match_ = static_cast<int>(same), at_ = end + 1;
    }
}

void PromptLookup::add(TokenId id) {
    const bool right = match_ > 0 && tokens_[at_] == id;
    if (match_ > 0) {
        Rate& r = rates_[rate_of(match_)];
        r.tried = memory * r.tried + 1;
        r.right = memory * r.right + right;
    }
    copying_ = copying_memory * copying_ + (1 - copying_memory) * right;
    tokens_.push_back(id);
    if (right) {  // further along the same text
        ++at_, ++match_;
        return;
    }
    const std::size_t behind = match_ >= edited_match ? at_ + 1 : 0;
    search();
    if (match_ == 0 && behind > 0) at_ = behind, match_ = 1;  // where one word was put in another's place
}

PromptLookup::Guess PromptLookup::guess(int most) const {
    Guess g;
    double all = 1;
    for (int i = 0; match_ > 0 && i < most; ++i) {
        const std::size_t at = at_ + static_cast<std::size_t>(i);
        g.tokens.push_back(at < tokens_.size() ? tokens_[at] : g.tokens[at - tokens_.size()]);  // a loop goes on
        g.chance.push_back(all *= chance(match_ + i));
    }
    return g;
}

void DraftPlanner::note(int rows, double seconds) {
    const auto r = static_cast<std::size_t>(rows);
    if (costs_.size() <= r) costs_.resize(r + 1);
    double& own = costs_[r].seconds;
    if (++costs_[r].seen <= warm_ups) return;
    if (rows > 1 && costs_[1].seconds > 0) seconds = std::min(seconds, rows * costs_[1].seconds);  // more is others' doing
    own = own == 0 ? seconds : own + (seconds < own ? fall : rise) * (seconds - own);
    // More rows that once took long, perhaps because of others on this machine, will be tried again some day.
    for (std::size_t i = r + 1; i < costs_.size(); ++i)
        if (const double hope = own * (1 + optimism * static_cast<double>(i - r)); costs_[i].seconds > hope) costs_[i].seconds -= drift * (costs_[i].seconds - hope);
}

double DraftPlanner::seconds(int rows) const {
    const auto r = static_cast<std::size_t>(rows);
    const auto known = [&](std::size_t i) { return i < costs_.size() ? costs_[i].seconds : 0; };
    if (known(r) > 0) return known(r);
    std::size_t below = r, above = r;
    while (below > 0 && known(below) == 0) --below;
    while (above < costs_.size() && known(above) == 0) ++above;
    if (below == 0) return 0;
    const double hope = known(below) * (1 + optimism * static_cast<double>(r - below));
    return known(above) > 0 ? std::clamp(known(above), known(below), hope) : hope;
}

std::vector<int> DraftPlanner::choose(std::span<const std::vector<double>> chances, int most, bool always) const {
    std::vector<int> counts(chances.size()), best = counts;
    const int streams = static_cast<int>(chances.size());
    const double alone = seconds(streams);
    if (alone <= 0 && !always) return best;
    std::vector<double> expected(chances.size(), 1.0);  // tokens
    double sum = streams, best_speed = worth * sum / alone;
    for (int drafts = 1; drafts <= most; ++drafts) {
        std::size_t next = chances.size();
        for (std::size_t i = 0; i < chances.size(); ++i) {
            const auto n = static_cast<std::size_t>(counts[i]);
            if (n < chances[i].size() && (next == chances.size() || chances[i][n] > chances[next][static_cast<std::size_t>(counts[next])])) next = i;
        }
        if (next == chances.size()) break;
        const double chance = chances[next][static_cast<std::size_t>(counts[next]++)];
        expected[next] += chance;
        sum += chance;
        const double took = seconds(streams + drafts);
        const bool fair = *std::min_element(expected.begin(), expected.end()) >= patience * took / alone;
        if (fair && sum / took > best_speed) best_speed = sum / took, best = counts;
    }
    return always ? counts : best;
}

}  // namespace glmd
