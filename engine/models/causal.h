#pragma once
// The causal decoder that llama, ChatGLM2/3, GLM-4, GLM-Edge and GLM-4-0414 are instances of: pre-norm RMSNorm, grouped-query
// attention with rotary positions, SwiGLU, optional norms after attention and MLP (the sandwich of 0414).
// A family file says which constants and tensor names; this says what is computed.
#include "engine/models/model.h"

namespace glmd {

struct CausalConfig : ModelConfig {
    int rotary_dim = 0;
    double rope_theta = 10000;
    std::vector<double> rope_factors;  // divides each inverse frequency; empty: ones
    RotaryPairing pairing = RotaryPairing::interleaved;
    bool sandwich_norm = false;
};

/// Recipes for llama.cpp's tensor names: q, k, v fused or apart; gate and up fused or apart.
std::vector<PackRecipe> causal_recipes(const Gguf& file);
/// Hyper-parameters under "<architecture>." with llama.cpp's keys.
CausalConfig causal_config(const Gguf& metadata);
std::unique_ptr<Model> load_causal(const ModelContext& context, CausalConfig config);

}  // namespace glmd
