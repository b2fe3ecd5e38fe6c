// glm: the original GLM (2022), which fills blanks: [CLS] text <|endoftext|> with masks in it, then <|startofpiece|> and the answer.
// Learned positions in two tables; an answer keeps the position of its mask and counts blocks from 1. With several blanks the
// answers follow one another behind the text.
#include "engine/models/prefix_lm.h"

namespace glmd {
namespace {

ModelConfig config(const Gguf& f) { return prefix_lm_config(f); }

std::unique_ptr<Model> load(const ModelContext& c) {
    PrefixLmConfig config = prefix_lm_config(c.metadata);
    config.learned_positions = true;
    // The hub's model code has the erf form, the original repository the tanh form.
    config.function = c.metadata.string("glm.activation", "gelu_tanh") == "gelu_erf" ? Function::gelu_erf : Function::gelu_tanh;
    BlankRules rules;
    rules.masks = {special_token(c, "mask", {"[MASK]"}), special_token(c, "smask", {"[sMASK]"}), special_token(c, "gmask", {"[gMASK]"})};
    rules.first = special_token(c, "cls", {"[CLS]"});
    rules.last = special_token(c, "eos", {"<|endoftext|>"});
    rules.bare = {rules.id(BlankKind::passage)};
    rules.start = special_token(c, "sop", {"<|startofpiece|>"});
    rules.answers_follow = true;
    rules.strip = c.metadata.boolean("glmd.tokenizer.strips_around_specials", true);
    config.blanks = usable(rules);
    const std::vector<TokenId> masks(rules.masks.begin(), rules.masks.end());
    return load_prefix_lm(c, std::move(config), [=, start = rules.start](std::span<const TokenId> prompt, std::span<const BlankRows> blanks) {
        return block_layout(prompt, blanks_or_first(prompt, blanks, start, masks));
    });
}

}  // namespace

extern const ModelFamily glm_family{"glm", config, prefix_lm_recipes, load};

}  // namespace glmd
