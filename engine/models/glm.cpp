// glm: the original GLM (2022), which fills blanks: [CLS] text <|endoftext|> with masks in it, then <|startofpiece|> and the answer.
// Learned positions in two tables; the answer keeps the position of the first mask and counts blocks from 1.
#include <algorithm>

#include "engine/models/prefix_lm.h"

namespace glmd {
namespace {

ModelConfig config(const Gguf& f) { return prefix_lm_config(f); }

std::unique_ptr<Model> load(const ModelContext& c) {
    PrefixLmConfig config = prefix_lm_config(c.metadata);
    config.learned_positions = true;
    // The hub's model code has the erf form, the original repository the tanh form.
    config.function = c.metadata.string("glm.activation", "gelu_tanh") == "gelu_erf" ? Function::gelu_erf : Function::gelu_tanh;
    const std::vector<TokenId> masks{special_token(c, "mask", {"[MASK]"}), special_token(c, "smask", {"[sMASK]"}),
                                     special_token(c, "gmask", {"[gMASK]"})};
    const TokenId start = special_token(c, "sop", {"<|startofpiece|>"});
    return load_prefix_lm(c, std::move(config), [=](std::span<const TokenId> prompt) {
        PromptLayout l = causal_layout(prompt);
        l.bidirectional = static_cast<int>(std::find(prompt.begin(), prompt.end(), start) - prompt.begin());
        const auto at = std::find_first_of(prompt.begin(), prompt.end(), masks.begin(), masks.end());
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

extern const ModelFamily glm_family{"glm", config, prefix_lm_recipes, load};

}  // namespace glmd
