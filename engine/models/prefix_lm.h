#pragma once
// The prefix language models that ChatGLM-6B, GLM-130B and the original GLM are instances of: the context sees itself in both
// directions, the answer is causal, LayerNorm with bias everywhere. A family file says which constants; this says what is
// computed. Papers: GLM (arXiv 2103.10360), GLM-130B (2210.02414).
#include "engine/models/model.h"

namespace glmd {

struct PrefixLmConfig : ModelConfig {
    /// Above 0: x = alpha * LN(x) + f(LN(x)), the residual is the normalised input (ChatGLM-6B, GLM-130B). 0: x += f(LN(x)).
    float alpha = 0;
    /// Rotary streams over the head, none for learned positions. Two: the first half turns with the position, the second
    /// with the block position, pairs (i, i + half) within each; inverse frequencies are rounded to half precision.
    int rotary_streams = 0;
    bool learned_positions = false;  // position_embd and block_position_embd are added to the word embedding
    Function function = Function::gelu_tanh;
    Gate gate = Gate::none;
};

std::vector<PackRecipe> prefix_lm_recipes(const Gguf& file);
/// Hyper-parameters under "<architecture>." with llama.cpp's key names.
PrefixLmConfig prefix_lm_config(const Gguf& metadata);
/// See Model::layout.
using PlacePrompt = std::function<PromptLayout(std::span<const TokenId> prompt, std::span<const BlankRows> blanks)>;
std::unique_ptr<Model> load_prefix_lm(const ModelContext& context, PrefixLmConfig config, PlacePrompt layout);

/// The blanks given, else one: from the first `start` on (the prompt's end if there is none) an answer to the first of
/// `masks` (the context's last token if there is none).
std::vector<BlankRows> blanks_or_first(std::span<const TokenId> prompt, std::span<const BlankRows> blanks,
                                       TokenId start, const std::vector<TokenId>& masks);
/// GLM and ChatGLM-6B: the context counts up with block 0; an answer keeps its mask's position and counts blocks from 1.
PromptLayout block_layout(std::span<const TokenId> prompt, const std::vector<BlankRows>& blanks);
/// `rules`, unless the model file lacks what infilling needs.
std::optional<BlankRules> usable(BlankRules rules);

}  // namespace glmd
