// chatglm: ChatGLM2, ChatGLM3, CodeGeeX and GLM-4-9B in their own remote-code layout, and GlmForCausalLM (GLM-4-9B, GLM-Edge)
// in transformers'. What is peculiar: both layouts hold the same rows in the same order (no permutation), so the same model
// converts to the same tensors from either. Names and keys are llama.cpp's. Nothing in a ChatGLM2 or ChatGLM3 configuration
// says which of the two it is but its name; without one, ChatGLM3's configuration class list decides, and --chat-template wins.
#include <cmath>

#include "engine/checkpoint/families/families.h"

namespace glmd {
namespace {

constexpr std::string_view remote_probe = "transformer.encoder.layers.0.self_attention.query_key_value.weight";

bool is_remote(const Checkpoint& c) { return c.kind() == CheckpointKind::hugging_face && c.find(remote_probe); }

bool matches(const Checkpoint& c) {
    return is_remote(c) || (c.kind() == CheckpointKind::hugging_face && c.config().string("model_type") == "glm" &&
                            c.find("model.layers.0.self_attn.q_proj.weight"));
}

std::string template_of(const Config& config) {
    auto name = config.string("_name_or_path");
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (name.find("glm2") != name.npos || name.find("codegeex2") != name.npos) return "chatglm2";
    if (name.find("glm3") != name.npos) return "chatglm3";
    return config.object("auto_map").has("AutoModelForSequenceClassification") ? "chatglm3" : "chatglm2";
}

void plan_remote(Planner& p) {
    const Config& c = p.config();
    Plan& plan = p.plan();
    if (!c.boolean("rmsnorm", true) || c.boolean("add_bias_linear", false) || !c.boolean("post_layer_norm", true) ||
        c.boolean("apply_residual_connection_post_layernorm", false))
        throw ModelError(c.where() + ": it asks for LayerNorm, biases or a residual that no ChatGLM release has.");
    CausalSizes s;
    s.layers = c.dimension("num_layers", 1000);
    s.hidden = c.dimension("hidden_size", 1 << 17);
    s.heads = c.dimension("num_attention_heads", 1 << 12);
    s.kv_heads = c.boolean("multi_query_attention", false) ? c.dimension("multi_query_group_num", s.heads, 1) : s.heads;
    s.head_dim = c.dimension("kv_channels", 1 << 12, s.hidden / s.heads);
    s.inner = c.dimension("ffn_hidden_size", 1 << 19);
    s.vocabulary = c.dimension("padded_vocab_size", 1 << 24);
    s.context = c.dimension("seq_length", 1 << 24);
    s.rotary = s.head_dim / 2;
    s.theta = 10000.0 * c.number("rope_ratio", 1.0);
    s.eps = c.number("layernorm_epsilon");
    causal_keys(p, s);
    plan.chat_template = c.has("rope_ratio") ? "" : template_of(c);

    const auto qkv = (s.heads + 2 * s.kv_heads) * s.head_dim;
    p.matrix("token_embd.weight", "transformer.embedding.word_embeddings.weight", s.vocabulary, s.hidden);
    if (c.boolean("tie_word_embeddings", false)) p.ignore("transformer.output_layer.weight");
    else p.matrix("output.weight", "transformer.output_layer.weight", s.vocabulary, s.hidden);
    p.vector("output_norm.weight", "transformer.encoder.final_layernorm.weight", s.hidden);
    for (std::int64_t i = 0; i < s.layers; ++i) {
        const std::string to = "blk." + std::to_string(i) + ".", from = "transformer.encoder.layers." + std::to_string(i) + ".";
        p.vector(to + "attn_norm.weight", from + "input_layernorm.weight", s.hidden);
        p.matrix(to + "attn_qkv.weight", from + "self_attention.query_key_value.weight", qkv, s.hidden);
        if (p.has(from + "self_attention.query_key_value.bias")) p.vector(to + "attn_qkv.bias", from + "self_attention.query_key_value.bias", qkv);
        p.matrix(to + "attn_output.weight", from + "self_attention.dense.weight", s.hidden, s.heads * s.head_dim);
        p.vector(to + "ffn_norm.weight", from + "post_attention_layernorm.weight", s.hidden);
        p.matrix(to + "ffn_up.weight", from + "mlp.dense_h_to_4h.weight", 2 * s.inner, s.hidden);
        p.matrix(to + "ffn_down.weight", from + "mlp.dense_4h_to_h.weight", s.hidden, s.inner);
    }
}

void add_prefix(Planner& p, const Checkpoint& prefix) {
    const Config& c = p.config();
    const auto heads = c.dimension("num_attention_heads", 1 << 12);
    p.prefix(prefix, "transformer.prefix_encoder", c.dimension("num_layers", 1000),
             c.boolean("multi_query_attention", false) ? c.dimension("multi_query_group_num", heads, 1) : heads,
             c.dimension("kv_channels", 1 << 12, c.dimension("hidden_size", 1 << 17) / heads));
}

void plan(Planner& p) {
    p.plan().architecture = "chatglm";
    if (is_remote(p.checkpoint())) {
        plan_remote(p);
        if (p.has("transformer.prefix_encoder.embedding.weight")) add_prefix(p, p.checkpoint());
    } else {
        plan_transformers_glm(p, false);
    }
}

}  // namespace

extern const CheckpointFamily chatglm_checkpoints{matches, plan, add_prefix};

void causal_keys(Planner& p, const CausalSizes& s) {
    const auto u32 = [&](const char* key, std::int64_t v) { p.key(key, static_cast<std::uint32_t>(v)); };
    if (s.heads % s.kv_heads != 0 || s.rotary < 2 || s.rotary % 2 != 0 || s.rotary > s.head_dim || !(s.theta > 0) || !(s.eps > 0))
        throw ModelError(p.config().where() + ": its sizes of heads, groups, rotation or epsilon can't be.");
    u32("context_length", s.context);
    u32("block_count", s.layers);
    u32("embedding_length", s.hidden);
    u32("feed_forward_length", s.inner);
    u32("attention.head_count", s.heads);
    u32("attention.head_count_kv", s.kv_heads);
    u32("attention.key_length", s.head_dim);
    u32("attention.value_length", s.head_dim);
    p.key("attention.layer_norm_rms_epsilon", static_cast<float>(s.eps));
    u32("rope.dimension_count", s.rotary);
    p.key("rope.freq_base", static_cast<float>(s.theta));
    p.plan().vocabulary = s.vocabulary;
}

void plan_transformers_glm(Planner& p, bool sandwich) {
    const Config& c = p.config();
    CausalSizes s;
    s.layers = c.dimension("num_hidden_layers", 1000);
    s.hidden = c.dimension("hidden_size", 1 << 17);
    s.heads = c.dimension("num_attention_heads", 1 << 12);
    s.kv_heads = c.dimension("num_key_value_heads", s.heads, s.heads);
    s.head_dim = c.dimension("head_dim", 1 << 12, s.hidden / s.heads);
    s.inner = c.dimension("intermediate_size", 1 << 19);
    s.vocabulary = c.dimension("vocab_size", 1 << 24);
    s.context = c.dimension("max_position_embeddings", 1 << 24);
    const Config rope = c.object("rope_parameters");  // newer transformers; older ones have the same keys at the top
    const auto rope_number = [&](const char* key, double fallback) { return rope.has(key) ? rope.number(key) : c.number(key, fallback); };
    const auto kind = rope.has("rope_type") ? rope.string("rope_type") : c.object("rope_scaling").string("rope_type", c.object("rope_scaling").string("type", "default"));
    if (kind != "default") throw ModelError(c.where() + ": its rope scaling \"" + kind.substr(0, 40) + "\" isn't supported.");
    s.rotary = static_cast<std::int64_t>(double(s.head_dim) * rope_number("partial_rotary_factor", 0.5));
    s.theta = rope_number("rope_theta", 10000.0);
    s.eps = c.number("rms_norm_eps");
    if (const auto act = c.string("hidden_act", "silu"); act != "silu") throw ModelError(c.where() + ": hidden_act must be silu.");
    causal_keys(p, s);

    const auto q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    p.matrix("token_embd.weight", "model.embed_tokens.weight", s.vocabulary, s.hidden);
    if (c.boolean("tie_word_embeddings", false)) p.ignore("lm_head.weight");
    else p.matrix("output.weight", "lm_head.weight", s.vocabulary, s.hidden);
    p.vector("output_norm.weight", "model.norm.weight", s.hidden);
    for (std::int64_t i = 0; i < s.layers; ++i) {
        const std::string to = "blk." + std::to_string(i) + ".", from = "model.layers." + std::to_string(i) + ".", a = from + "self_attn.";
        p.vector(to + "attn_norm.weight", from + "input_layernorm.weight", s.hidden);
        p.stack(to + "attn_qkv.weight", {{a + "q_proj.weight", q}, {a + "k_proj.weight", kv}, {a + "v_proj.weight", kv}}, s.hidden);
        if (p.has(a + "q_proj.bias")) p.stack(to + "attn_qkv.bias", {{a + "q_proj.bias", q}, {a + "k_proj.bias", kv}, {a + "v_proj.bias", kv}}, 1);
        p.matrix(to + "attn_output.weight", a + "o_proj.weight", s.hidden, q);
        if (sandwich) {
            p.vector(to + "post_attention_norm.weight", from + "post_self_attn_layernorm.weight", s.hidden);
            p.vector(to + "post_ffw_norm.weight", from + "post_mlp_layernorm.weight", s.hidden);
        }
        p.vector(to + "ffn_norm.weight", from + "post_attention_layernorm.weight", s.hidden);
        p.matrix(to + "ffn_up.weight", from + "mlp.gate_up_proj.weight", 2 * s.inner, s.hidden);
        p.matrix(to + "ffn_down.weight", from + "mlp.down_proj.weight", s.hidden, s.inner);
    }
}

}  // namespace glmd
