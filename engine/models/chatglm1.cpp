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
    BlankRules rules;
    rules.masks = {special_token(c, "mask", {"[MASK]"}), -1, special_token(c, "gmask", {"[gMASK]"})};
    rules.last = c.tokenizer.special("</s>").value_or(-1);
    rules.start = special_token(c, "sop", {"<sop>"});
    const TokenId mask = rules.id(BlankKind::words), gmask = rules.id(BlankKind::passage);
    rules.bare = {mask, gmask};
    rules.strip = c.metadata.boolean("glmd.tokenizer.strips_around_specials", true);
    config.blanks = usable(rules);
    return load_prefix_lm(c, std::move(config), [=, start = rules.start](std::span<const TokenId> prompt, std::span<const BlankRows> blanks) {
        const bool long_answer = std::find(prompt.begin(), prompt.end(), gmask) != prompt.end();
        return block_layout(prompt, blanks_or_first(prompt, blanks, start, {long_answer ? gmask : mask}));
    });
}

}  // namespace

extern const ModelFamily chatglm1_family{"chatglm1", config, prefix_lm_recipes, load};

}  // namespace glmd
