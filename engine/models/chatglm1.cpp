// chatglm1: ChatGLM-6B. A prefix LM: everything up to and including [gMASK] sees itself in both directions, from <sop> on it is
// causal. Positions are two streams: context tokens count up with block 0; from <sop> on the position stays at the mask and
// the block counts 1, 2, 3 … The residual is alpha * LN(x) with alpha = sqrt(2 * 28) whatever the number of layers, since
// upstream never passes that number to its blocks. The head is the embedding.
#include <algorithm>
#include <cmath>

#include "engine/models/prefix_lm.h"

namespace glmd {
namespace {

ModelConfig config(const Gguf& f) { return prefix_lm_config(f); }

std::unique_ptr<Model> load(const ModelContext& c) {
    PrefixLmConfig config = prefix_lm_config(c.metadata);
    config.alpha = std::sqrt(2.0f * 28.0f);
    config.rotary_streams = 2;
    const TokenId gmask = special_token(c, "gmask", {"[gMASK]"}), mask = special_token(c, "mask", {"[MASK]"}),
                  sop = special_token(c, "sop", {"<sop>"});
    return load_prefix_lm(c, std::move(config), [=](std::span<const TokenId> prompt) {
        PromptLayout l = causal_layout(prompt);
        const auto begin = std::find(prompt.begin(), prompt.end(), sop);
        l.bidirectional = static_cast<int>(begin - prompt.begin());
        auto at = std::find(prompt.begin(), prompt.end(), gmask);
        if (at == prompt.end()) at = std::find(prompt.begin(), prompt.end(), mask);
        const int position = at == prompt.end() ? std::max(0, l.bidirectional - 1) : static_cast<int>(at - prompt.begin());
        for (int i = l.bidirectional; i < static_cast<int>(prompt.size()); ++i) {
            l.positions[i] = position;
            l.block_positions[i] = i - l.bidirectional + 1;
        }
        l.position_step = 0, l.block_step = 1;
        return l;
    });
}

}  // namespace

extern const ModelFamily chatglm1_family{"chatglm1", config, prefix_lm_recipes, load};

}  // namespace glmd
