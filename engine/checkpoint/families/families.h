#pragma once
// The explicit list of families that the converter knows, and what several of them share.
#include "engine/checkpoint/plan.h"

namespace glmd {

extern const CheckpointFamily chatglm1_checkpoints, chatglm_checkpoints, glm4_checkpoints, glm_checkpoints, glm130b_checkpoints;

/// Sizes of the causal decoders (chatglm, glm4), under llama.cpp's keys.
struct CausalSizes {
    std::int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, inner = 0, vocabulary = 0, context = 0, rotary = 0;
    double theta = 10000, eps = 1e-5;
};
void causal_keys(Planner& planner, const CausalSizes& sizes);
/// GlmForCausalLM, and Glm4ForCausalLM with its sandwich norms.
void plan_transformers_glm(Planner& planner, bool sandwich);

/// Sizes of the decoders with biases and LayerNorm (chatglm1, glm, glm130b).
struct ClassicSizes {
    std::int64_t layers = 0, hidden = 0, heads = 0, inner = 0, vocabulary = 0, context = 0;
    double eps = 1e-5;
};
void classic_keys(Planner& planner, const ClassicSizes& sizes);

}  // namespace glmd
