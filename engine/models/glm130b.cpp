// glm130b: GLM-130B. ChatGLM-6B's block (DeepNorm) with alpha = sqrt(2 * layers), one rotary stream over the whole head, and
// GeGLU whose activation, the erf form, is on the second half. With [gMASK] positions run on; with [MASK] or [sMASK] the
// answer keeps the position of the mask. There are no block positions.
#include <algorithm>
#include <cmath>

#include "engine/models/prefix_lm.h"

namespace glmd {
namespace {

ModelConfig config(const Gguf& f) { return prefix_lm_config(f); }

std::unique_ptr<Model> load(const ModelContext& c) {
    PrefixLmConfig config = prefix_lm_config(c.metadata);
    config.alpha = std::sqrt(2.0f * static_cast<float>(config.layers));
    config.rotary_streams = 1;
    config.function = Function::gelu_erf;
    config.gate = Gate::second;
    BlankRules rules;
    rules.masks = {special_token(c, "mask", {"[MASK]"}), special_token(c, "smask", {"[sMASK]"}), special_token(c, "gmask", {"[gMASK]"})};
    rules.last = special_token(c, "eos", {"</s>"});
    rules.bare.assign(rules.masks.begin(), rules.masks.end());
    rules.start = special_token(c, "sop", {"<sop>", "sop"});
    config.blanks = usable(rules);
    const TokenId gmask = rules.id(BlankKind::passage), mask = rules.id(BlankKind::words), smask = rules.id(BlankKind::sentence);
    return load_prefix_lm(c, std::move(config), [=, start = rules.start](std::span<const TokenId> prompt, std::span<const BlankRows> blanks) {
        PromptLayout l = causal_layout(prompt);
        const bool long_answer = std::find(prompt.begin(), prompt.end(), gmask) != prompt.end();
        const BlankRows blank = blanks_or_first(prompt, blanks, start, long_answer ? std::vector{gmask} : std::vector{mask, smask}).back();
        l.bidirectional = blank.start;
        if (blank.mask >= blank.start || (prompt[blank.mask] != mask && prompt[blank.mask] != smask)) return l;
        std::fill(l.positions.begin() + blank.start, l.positions.end(), blank.mask);
        l.position_step = 0;
        return l;
    });
}

}  // namespace

extern const ModelFamily glm130b_family{"glm130b", config, prefix_lm_recipes, load};

}  // namespace glmd
