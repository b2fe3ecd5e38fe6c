#pragma once
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>
#include <random>
#include <span>

#include "engine/tokenizer.h"

namespace glmd {

struct SamplingOptions {
    float temperature = 0.8f;  // 0: the most likely token
    float top_p = 0.8f;
    int top_k = 0;             // 0: all
    std::optional<std::uint64_t> seed;
};

/// Draws one id from a row of logits: temperature, top_k, top_p, in this order. One per sequence; not thread-safe.
class Sampler {
public:
    explicit Sampler(const SamplingOptions& options);
    TokenId sample(std::span<const float> logits);

private:
    SamplingOptions options_;
    std::mt19937_64 random_;
    std::vector<std::pair<float, TokenId>> candidates_;
};

}  // namespace glmd
