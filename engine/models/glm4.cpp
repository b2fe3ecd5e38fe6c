// glm4: GLM-4-0414. ChatGLM's graph with a second RMSNorm after attention and after the MLP (sandwich norm).
#include "engine/models/causal.h"

namespace glmd {
namespace {

ModelConfig config(const Gguf& f) { return causal_config(f); }

std::unique_ptr<Model> load(const ModelContext& c) {
    CausalConfig config = causal_config(c.metadata);
    config.sandwich_norm = true;
    return load_causal(c, std::move(config));
}

}  // namespace

extern const ModelFamily glm4_family{"glm4", config, causal_recipes, load};

}  // namespace glmd
