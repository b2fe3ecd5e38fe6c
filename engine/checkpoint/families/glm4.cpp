// glm4: GLM-4-0414, Glm4ForCausalLM. What is peculiar: upstream's post_attention_layernorm is the norm *before* the MLP (our
// ffn_norm); the norms after attention and after the MLP are post_self_attn_layernorm and post_mlp_layernorm.
#include "engine/checkpoint/families/families.h"

namespace glmd {
namespace {

bool matches(const Checkpoint& c) {
    return c.kind() == CheckpointKind::hugging_face && c.config().string("model_type") == "glm4" &&
           c.find("model.layers.0.post_mlp_layernorm.weight");
}

void plan(Planner& p) {
    p.plan().architecture = "glm4";
    p.plan().chat_template = "glm4_0414";
    p.plan().tokenizer.bpe_pre = "glm4";
    plan_transformers_glm(p, true);
}

}  // namespace

extern const CheckpointFamily glm4_checkpoints{matches, plan, nullptr};

}  // namespace glmd
