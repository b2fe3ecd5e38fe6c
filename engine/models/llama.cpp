// llama: SmolLM2, our demo model, and its kind. llama.cpp's files have the query and key rows permuted, so that the rotary
// pairs are neighbours; newer ones bring a frequency factor per pair (rope_freqs).
#include "engine/models/causal.h"

namespace glmd {
namespace {

ModelConfig config(const Gguf& f) { return causal_config(f); }

std::unique_ptr<Model> load(const ModelContext& c) {
    CausalConfig config = causal_config(c.metadata);
    if (c.weights.has("rope_freqs.weight")) {
        const Vector v = c.weights.vector("rope_freqs.weight", config.rotary_dim / 2);
        config.rope_factors.assign(v.data, v.data + v.size);
    }
    return load_causal(c, std::move(config));
}

}  // namespace

extern const ModelFamily llama_family{"llama", config, causal_recipes, load};

}  // namespace glmd
