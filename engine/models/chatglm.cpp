// chatglm: ChatGLM2, ChatGLM3, GLM-4-9B and GLM-Edge in llama.cpp's files. Only a part of each head is rotated (half of it; all
// of it in Edge), neighbouring pairs; q, k and v have a bias; ffn_up holds the gate in its first half.
#include "engine/models/causal.h"

namespace glmd {
namespace {

ModelConfig config(const Gguf& f) { return causal_config(f); }

std::unique_ptr<Model> load(const ModelContext& c) { return load_causal(c, causal_config(c.metadata)); }

}  // namespace

extern const ModelFamily chatglm_family{"chatglm", config, causal_recipes, load};

}  // namespace glmd
