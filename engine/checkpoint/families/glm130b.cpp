// glm130b: GLM-130B's SAT checkpoints, whole or split among model-parallel ranks. What is peculiar: dense_h_to_4h is a GLU, and
// every rank holds its part of the first half and then its part of the second; a plain concatenation of ranks would be wrong.
// Real checkpoints have no configuration, so GLM-130B's own sizes are the default.
#include <cmath>

#include "engine/checkpoint/families/families.h"

namespace glmd {
namespace {

bool matches(const Checkpoint& c) {
    return c.kind() == CheckpointKind::sat && c.find("transformer.word_embeddings.weight") &&
           c.find("transformer.layers.0.attention.query_key_value.weight");
}

void plan(Planner& p) {
    const Config& c = p.config();
    Plan& plan = p.plan();
    plan.architecture = "glm130b";
    plan.chat_template = "glm130b";
    plan.tokenizer.kind = TokenizerFamily::Kind::chatglm1;
    plan.tokenizer.image_tokens = c.integer("num_image_tokens", 20000);
    if (c.string("layernorm_order", "post") != "post") throw ModelError(c.where() + ": layernorm_order must be \"post\".");
    ClassicSizes s;
    s.layers = c.dimension("num_layers", 1000, 70);
    s.hidden = c.dimension("hidden_size", 1 << 17, 12288);
    s.heads = c.dimension("num_attention_heads", 1 << 12, 96);
    s.inner = c.dimension("inner_hidden_size", 1 << 19, 32768);
    s.vocabulary = c.dimension("vocab_size", 1 << 24, 150528);
    s.context = c.dimension("max_sequence_length", 1 << 24, 2048);
    s.eps = c.number("layernorm_epsilon", 1e-5);
    classic_keys(p, s);
    const auto d = s.hidden / s.heads;
    if (d % 2 != 0) throw ModelError(c.where() + ": a head of " + std::to_string(d) + " values can't be rotated.");
    p.key("rope.dimension_count", static_cast<std::uint32_t>(d));
    p.key("rope.freq_base", static_cast<float>(c.number("rotary_base", 10000.0)));
    p.key("residual_scale", static_cast<float>(std::sqrt(2.0 * double(s.layers))));
    const Config ids = c.object("special_ids");
    const auto id = [&](const char* name, const char* upstream, std::int64_t real) {
        if (ids.has(upstream) || c.keys().empty()) plan.special_ids.emplace_back(name, ids.integer(upstream, real));
    };
    id("mask", "[MASK]", 150000);
    id("gmask", "[gMASK]", 150001);
    id("smask", "[sMASK]", 150002);
    id("eod", "eod", 150003);
    id("sop", "sop", 150004);
    id("eop", "eop", 150005);
    id("eos", "eos", 20002);
    for (const auto& [name, value] : plan.special_ids)
        if (name == "eop" || name == "eos") plan.end_ids.push_back(value);

    p.join_rows("token_embd.weight", "transformer.word_embeddings.weight", s.vocabulary, s.hidden);
    for (const std::string w : {"weight", "bias"}) p.vector("output_norm." + w, "transformer.final_layernorm." + w, s.hidden);
    for (std::int64_t i = 0; i < s.layers; ++i) {
        const std::string to = "blk." + std::to_string(i) + ".", from = "transformer.layers." + std::to_string(i) + ".";
        for (const std::string w : {"weight", "bias"}) {
            const bool m = w == "weight";
            p.vector(to + "attn_norm." + w, from + "input_layernorm." + w, s.hidden);
            p.untangle_qkv(to + "attn_qkv." + w, from + "attention.query_key_value." + w, s.heads, d, m ? s.hidden : 1);
            if (m) p.join_columns(to + "attn_output." + w, from + "attention.dense." + w, s.hidden, s.hidden);
            else p.vector(to + "attn_output." + w, from + "attention.dense." + w, s.hidden);
            p.vector(to + "ffn_norm." + w, from + "post_attention_layernorm." + w, s.hidden);
            p.join_rows(to + "ffn_up." + w, from + "mlp.dense_h_to_4h." + w, 2 * s.inner, m ? s.hidden : 1, 2);
            if (m) p.join_columns(to + "ffn_down." + w, from + "mlp.dense_4h_to_h." + w, s.hidden, s.inner);
            else p.vector(to + "ffn_down." + w, from + "mlp.dense_4h_to_h." + w, s.hidden);
        }
    }
}

}  // namespace

extern const CheckpointFamily glm130b_checkpoints{matches, plan, nullptr};

}  // namespace glmd
