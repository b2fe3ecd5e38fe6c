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
    const TokenId gmask = special_token(c, "gmask", {"[gMASK]"}), mask = special_token(c, "mask", {"[MASK]"}),
                  smask = special_token(c, "smask", {"[sMASK]"}), sop = special_token(c, "sop", {"<sop>", "sop"});
    return load_prefix_lm(c, std::move(config), [=](std::span<const TokenId> prompt) {
        PromptLayout l = causal_layout(prompt);
        l.bidirectional = static_cast<int>(std::find(prompt.begin(), prompt.end(), sop) - prompt.begin());
        if (std::find(prompt.begin(), prompt.end(), gmask) != prompt.end()) return l;
        const std::vector<TokenId> masks{mask, smask};
        const auto at = std::find_first_of(prompt.begin(), prompt.end(), masks.begin(), masks.end());
        if (at == prompt.end()) return l;
        for (int i = l.bidirectional; i < static_cast<int>(prompt.size()); ++i)
            l.positions[i] = static_cast<int>(at - prompt.begin());
        l.position_step = 0;
        return l;
    });
}

}  // namespace

extern const ModelFamily glm130b_family{"glm130b", config, prefix_lm_recipes, load};

}  // namespace glmd
