// glm: the blank-infilling GLM of 2022, from the hub's layout (names start with "glm.") or the original repository's
// mp_rank_00_model_states.pt. What is peculiar: the hub's code uses the erf form of GELU, the original the tanh form, with the
// same weights; glm.activation says which. Original files carry no configuration: all but the number of heads is seen in the
// shapes, and every released GLM has heads of 64.
#include "engine/checkpoint/families/families.h"

namespace glmd {
namespace {

std::string root(const Checkpoint& c) { return c.find("glm.word_embeddings.weight") ? "glm." : ""; }

bool matches(const Checkpoint& c) {
    return c.kind() != CheckpointKind::sat && c.find(root(c) + "word_embeddings.weight") &&
           c.find(root(c) + "transformer.position_embeddings.weight") &&
           c.find(root(c) + "transformer.block_position_embeddings.weight");
}

std::int64_t extent(const Checkpoint& c, const std::string& name, std::size_t axis, std::int64_t limit) {
    const auto& t = c.tensor(name);
    if (t.shape.size() != 2 || t.shape[axis] < 1 || t.shape[axis] > limit)
        throw ModelError(c.folder() + ": the tensor \"" + name + "\" has an impossible shape.");
    return t.shape[axis];
}

void plan(Planner& p) {
    const Checkpoint& checkpoint = p.checkpoint();
    const Config& c = p.config();
    Plan& plan = p.plan();
    plan.architecture = "glm";
    plan.chat_template = "glm";
    plan.tokenizer.kind = TokenizerFamily::Kind::glm;
    const std::string g = root(checkpoint), t = g + "transformer.";
    ClassicSizes s;
    s.vocabulary = extent(checkpoint, g + "word_embeddings.weight", 0, 1 << 24);
    s.hidden = extent(checkpoint, g + "word_embeddings.weight", 1, 1 << 17);
    s.inner = extent(checkpoint, t + "layers.0.mlp.dense_h_to_4h.weight", 0, 1 << 19);
    const auto positions = extent(checkpoint, t + "position_embeddings.weight", 0, 1 << 24);
    const auto blocks = extent(checkpoint, t + "block_position_embeddings.weight", 0, 1 << 24);
    while (s.layers < 1000 && p.has(t + "layers." + std::to_string(s.layers) + ".input_layernorm.weight")) ++s.layers;
    if (c.has("num_layers") && c.integer("num_layers") != s.layers)
        throw ModelError(c.where() + ": num_layers is " + std::to_string(c.integer("num_layers")) + " but the checkpoint has " +
                         std::to_string(s.layers) + " layers.");
    if (c.has("num_attention_heads")) s.heads = c.dimension("num_attention_heads", 1 << 12);
    else if (s.hidden % 64 == 0) s.heads = s.hidden / 64;
    else throw ModelError(checkpoint.folder() + ": the number of heads isn't known; give --config FILE with num_attention_heads.");
    s.context = c.dimension("max_sequence_length", 1 << 24, positions - 1);
    s.eps = c.number("layernorm_epsilon", 1e-5);
    classic_keys(p, s);
    p.key("activation", std::string(g.empty() ? "gelu_tanh" : "gelu_erf"));
    p.key("position_count", static_cast<std::uint32_t>(positions));
    p.key("block_position_count", static_cast<std::uint32_t>(blocks));

    p.matrix("token_embd.weight", g + "word_embeddings.weight", s.vocabulary, s.hidden);
    p.table("position_embd.weight", t + "position_embeddings.weight", positions, s.hidden);
    p.table("block_position_embd.weight", t + "block_position_embeddings.weight", blocks, s.hidden);
    for (const std::string w : {"weight", "bias"}) p.vector("output_norm." + w, t + "final_layernorm." + w, s.hidden);
    for (std::int64_t i = 0; i < s.layers; ++i) {
        const std::string to = "blk." + std::to_string(i) + ".", from = t + "layers." + std::to_string(i) + ".";
        for (const std::string w : {"weight", "bias"}) {
            const bool m = w == "weight";
            p.vector(to + "attn_norm." + w, from + "input_layernorm." + w, s.hidden);
            p.join_rows(to + "attn_qkv." + w, from + "attention.query_key_value." + w, 3 * s.hidden, m ? s.hidden : 1);
            p.join_rows(to + "attn_output." + w, from + "attention.dense." + w, s.hidden, m ? s.hidden : 1);
            p.vector(to + "ffn_norm." + w, from + "post_attention_layernorm." + w, s.hidden);
            p.join_rows(to + "ffn_up." + w, from + "mlp.dense_h_to_4h." + w, s.inner, m ? s.hidden : 1);
            p.join_rows(to + "ffn_down." + w, from + "mlp.dense_4h_to_h." + w, s.hidden, m ? s.inner : 1);
        }
    }
}

}  // namespace

extern const CheckpointFamily glm_checkpoints{matches, plan, nullptr};

}  // namespace glmd
