// Sorting a vocabulary of 150,000 for every token would cost more than the head of a small model. So only logits within
// reach of the largest are kept: below exp(-20) of it a token can't matter in float.
#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace glmd {

Sampler::Sampler(const SamplingOptions& options) : options_(options) {
    random_.seed(options.seed ? *options.seed : std::random_device{}());
}

TokenId Sampler::sample(std::span<const float> logits) {
    const auto best = std::max_element(logits.begin(), logits.end());
    if (options_.temperature <= 0 || options_.top_k == 1) return static_cast<TokenId>(best - logits.begin());

    const float reach = *best - 20.0f * options_.temperature;
    candidates_.clear();
    for (std::size_t i = 0; i < logits.size(); ++i)
        if (logits[i] >= reach) candidates_.emplace_back(logits[i], static_cast<TokenId>(i));
    // Descending, ties by id, so that a seed gives the same text everywhere.
    std::sort(candidates_.begin(), candidates_.end(),
              [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
    if (options_.top_k > 0 && candidates_.size() > std::size_t(options_.top_k)) candidates_.resize(options_.top_k);

    double sum = 0;
    for (auto& [logit, id] : candidates_) sum += logit = std::exp((logit - *best) / options_.temperature);
    if (options_.top_p < 1) {
        double kept = 0;
        std::size_t n = 0;
        while (n < candidates_.size() && (n == 0 || kept < options_.top_p * sum)) kept += candidates_[n++].first;
        candidates_.resize(n);
        sum = kept;
    }
    double r = std::uniform_real_distribution<double>(0, sum)(random_);
    for (const auto& [weight, id] : candidates_)
        if ((r -= weight) < 0) return id;
    return candidates_.back().second;
}

}  // namespace glmd
