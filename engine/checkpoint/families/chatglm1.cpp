// chatglm1: ChatGLM-6B. What is peculiar: rows of query_key_value go [q | k | v] head by head and leave here as three blocks;
// alpha is sqrt(2 * 28) whatever the number of layers, as upstream never passes it on; lm_head is tied on load, so it's left out.
#include <cmath>

#include "engine/checkpoint/families/families.h"

namespace glmd {
namespace {

bool matches(const Checkpoint& c) {
    return c.kind() == CheckpointKind::hugging_face && c.find("transformer.word_embeddings.weight") &&
           c.find("transformer.layers.0.attention.query_key_value.weight");
}

ClassicSizes sizes(const Config& c) {
    ClassicSizes s;
    s.layers = c.dimension("num_layers", 1000);
    s.hidden = c.dimension("hidden_size", 1 << 17);
    s.heads = c.dimension("num_attention_heads", 1 << 12);
    s.inner = c.dimension("inner_hidden_size", 1 << 19, 4 * s.hidden);
    s.vocabulary = c.dimension("vocab_size", 1 << 24);
    s.context = c.dimension("max_sequence_length", 1 << 24);
    s.eps = c.number("layernorm_epsilon", 1e-5);
    return s;
}

void add_prefix(Planner& p, const Checkpoint& prefix) {
    const auto s = sizes(p.config());
    p.prefix(prefix, "transformer.prefix_encoder", s.layers, s.heads, s.hidden / s.heads);
}

void plan(Planner& p) {
    const Config& c = p.config();
    Plan& plan = p.plan();
    plan.architecture = "chatglm1";
    plan.chat_template = "chatglm1";
    plan.tokenizer.kind = TokenizerFamily::Kind::chatglm1;
    if (!c.boolean("position_encoding_2d", true)) throw ModelError(c.where() + ": ChatGLM-6B without 2D positions isn't supported.");
    const auto s = sizes(c);
    classic_keys(p, s);
    const auto d = s.hidden / s.heads;
    if (d % 4 != 0) throw ModelError(c.where() + ": a head of " + std::to_string(d) + " values can't be rotated in two halves.");
    p.key("rope.dimension_count", static_cast<std::uint32_t>(d));
    p.key("rope.freq_base", 10000.0f);
    p.key("residual_scale", static_cast<float>(std::sqrt(2.0 * 28)));
    for (const auto& [name, key] : {std::pair{"sop", "bos_token_id"}, {"eop", "eos_token_id"}, {"mask", "mask_token_id"}, {"gmask", "gmask_token_id"}, {"pad", "pad_token_id"}})
        if (c.has(key)) plan.special_ids.emplace_back(name, c.integer(key));
    plan.end_ids = c.integers("eos_token_id");

    p.matrix("token_embd.weight", "transformer.word_embeddings.weight", s.vocabulary, s.hidden);
    p.ignore("lm_head.weight");
    p.ignore("lm_head.weight_scale");
    p.vector("output_norm.weight", "transformer.final_layernorm.weight", s.hidden);
    p.vector("output_norm.bias", "transformer.final_layernorm.bias", s.hidden);
    for (std::int64_t i = 0; i < s.layers; ++i) {
        const std::string to = "blk." + std::to_string(i) + ".", from = "transformer.layers." + std::to_string(i) + ".";
        for (const std::string w : {"weight", "bias"}) {
            const bool m = w == "weight";
            p.vector(to + "attn_norm." + w, from + "input_layernorm." + w, s.hidden);
            p.untangle_qkv(to + "attn_qkv." + w, from + "attention.query_key_value." + w, s.heads, d, m ? s.hidden : 1);
            p.join_rows(to + "attn_output." + w, from + "attention.dense." + w, s.hidden, m ? s.hidden : 1);
            p.vector(to + "ffn_norm." + w, from + "post_attention_layernorm." + w, s.hidden);
            p.join_rows(to + "ffn_up." + w, from + "mlp.dense_h_to_4h." + w, s.inner, m ? s.hidden : 1);
            p.join_rows(to + "ffn_down." + w, from + "mlp.dense_4h_to_h." + w, s.hidden, m ? s.inner : 1);
        }
    }
    if (p.has("transformer.prefix_encoder.embedding.weight")) add_prefix(p, p.checkpoint());
}

}  // namespace

extern const CheckpointFamily chatglm1_checkpoints{matches, plan, add_prefix};

void classic_keys(Planner& p, const ClassicSizes& s) {
    const auto u32 = [&](const char* key, std::int64_t v) { p.key(key, static_cast<std::uint32_t>(v)); };
    if (s.hidden % s.heads != 0 || !(s.eps > 0))
        throw ModelError(p.checkpoint().folder() + ": a width of " + std::to_string(s.hidden) + " can't be divided among " +
                         std::to_string(s.heads) + " heads.");
    u32("context_length", s.context);
    u32("block_count", s.layers);
    u32("embedding_length", s.hidden);
    u32("feed_forward_length", s.inner);
    u32("attention.head_count", s.heads);
    u32("attention.head_count_kv", s.heads);
    u32("attention.key_length", s.hidden / s.heads);
    p.key("attention.layer_norm_epsilon", static_cast<float>(s.eps));
    p.plan().vocabulary = s.vocabulary;
}

}  // namespace glmd
