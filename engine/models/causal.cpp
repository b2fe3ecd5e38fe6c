// Shapes: x [rows, hidden]; qkv [rows, (heads + 2 kv_heads) * head_dim]; inner [rows, 2 * inner] (gate, then up).
#include "engine/models/causal.h"

#include <cmath>

namespace glmd {
namespace {

struct Layer {
    Vector attention_norm, ffn_norm, post_attention_norm, post_ffn_norm;
    Linear qkv, output, gate_up, down;
    AttentionPrefix prefix;
};

class CausalModel final : public Model {
public:
    CausalModel(const ModelContext& c, CausalConfig config)
        : backend_(c.backend), weights_(c.weights), config_(std::move(config)), workspace_(c.backend) {
        const PackedFile& w = c.weights;
        const int h = config_.hidden, d = config_.head_dim;
        const int qkv = (config_.heads + 2 * config_.kv_heads) * d;
        embedding_ = w.matrices("token_embd.weight", config_.vocabulary, h).at(0);
        output_norm_ = w.vector("output_norm.weight", h);
        head_.parts = w.matrices(w.has("output.weight") ? "output.weight" : "token_embd.weight", config_.vocabulary, h);
        for (int i = 0; i < config_.layers; ++i) {
            const std::string p = "blk." + std::to_string(i) + ".";
            Layer l;
            l.attention_norm = w.vector(p + "attn_norm.weight", h);
            l.ffn_norm = w.vector(p + "ffn_norm.weight", h);
            l.qkv.parts = w.matrices(p + "attn_qkv.weight", qkv, h);
            if (w.has(p + "attn_qkv.bias")) l.qkv.bias = w.vector(p + "attn_qkv.bias", qkv);
            l.output.parts = w.matrices(p + "attn_output.weight", h, config_.heads * d);
            if (w.has(p + "attn_output.bias")) l.output.bias = w.vector(p + "attn_output.bias", h);
            l.gate_up.parts = w.matrices(p + "ffn_gate_up.weight", 2 * config_.inner, h);
            l.down.parts = w.matrices(p + "ffn_down.weight", h, config_.inner);
            if (config_.sandwich_norm) {
                l.post_attention_norm = w.vector(p + "post_attention_norm.weight", h);
                l.post_ffn_norm = w.vector(p + "post_ffw_norm.weight", h);
            }
            if (const std::size_t prefix = std::size_t(config_.prefix_tokens) * config_.kv_heads * d; prefix > 0)
                l.prefix = {config_.prefix_tokens, w.vector("prefix.key", prefix * config_.layers).data + i * prefix,
                            w.vector("prefix.value", prefix * config_.layers).data + i * prefix};
            layers_.push_back(std::move(l));
        }
        table_ = rotary_table(backend_, c.context, config_.rotary_dim, config_.rope_theta, config_.rope_factors);
        rotary_ = {0, config_.rotary_dim, config_.pairing, static_cast<const float*>(table_->data()), c.context};

        const std::int64_t n = c.max_rows;
        x_ = workspace_.take(c.kept_rows, h);
        norm_ = workspace_.take(n, h);
        qkv_ = workspace_.take(n, qkv);
        q_ = workspace_.take(c.kept_rows, config_.heads * d);
        k_ = workspace_.take(n, config_.kv_heads * d);
        v_ = workspace_.take(n, config_.kv_heads * d);
        attention_ = workspace_.take(n, config_.heads * d);
        gate_up_ = workspace_.take(n, 2 * config_.inner);
        inner_ = workspace_.take(n, config_.inner);
        scratch_ = workspace_.take(n, std::max(qkv, config_.inner));
        last_ = workspace_.take(c.max_logit_rows, h);
        logits_ = workspace_.take(c.max_logit_rows, config_.vocabulary);
    }

    const ModelConfig& config() const override { return config_; }
    std::size_t workspace_bytes() const override { return workspace_.bytes(); }

    void embed(const Step& s) override { backend_.embedding(hidden(s), embedding_, s.ids); }

    void keys(const Step& s, int index) override {
        weights_.need(index);
        const Layer& l = layers_[index];
        const int h = config_.hidden, d = config_.head_dim, qn = config_.heads * d, kn = config_.kv_heads * d;
        const Activations x = hidden(s), norm{norm_, s.rows, h}, qkv{qkv_, s.rows, qn + 2 * kn};
        const Activations q = queries(s), k{k_, s.rows, kn}, v{v_, s.rows, kn};

        backend_.rms_norm(norm, x, l.attention_norm, config_.norm_eps);
        apply(backend_, qkv, norm, l.qkv, s.precision, scratch_);
        backend_.take_columns(q, qkv, 0);
        backend_.take_columns(k, qkv, qn);
        backend_.take_columns(v, qkv, qn + kn);
        backend_.rotary(q, d, rotary_, s.positions);
        backend_.rotary(k, d, rotary_, s.positions);
        backend_.kv_write(*s.kv, index, k, v, s.tables);
    }

    void rest(const Step& s, int index) override {
        weights_.need(index);
        const Layer& l = layers_[index];
        const int h = config_.hidden, d = config_.head_dim, qn = config_.heads * d;
        const Activations x = hidden(s), norm{norm_, s.rows, h}, att{attention_, s.rows, qn};
        backend_.attention(att, queries(s), *s.kv, index, s.tables, 1.0f / std::sqrt(float(d)), l.prefix);
        apply(backend_, norm, att, l.output, s.precision, scratch_);
        if (config_.sandwich_norm) backend_.rms_norm(norm, norm, l.post_attention_norm, config_.norm_eps);
        backend_.residual(x, x, 1.0f, norm);

        const Activations gate_up{gate_up_, s.rows, 2 * config_.inner}, inner{inner_, s.rows, config_.inner};
        backend_.rms_norm(norm, x, l.ffn_norm, config_.norm_eps);
        apply(backend_, gate_up, norm, l.gate_up, s.precision, scratch_);
        backend_.activation(inner, gate_up, Function::silu, Gate::first);
        apply(backend_, norm, inner, l.down, s.precision, scratch_);
        if (config_.sandwich_norm) backend_.rms_norm(norm, norm, l.post_ffn_norm, config_.norm_eps);
        backend_.residual(x, x, 1.0f, norm);
    }

    Activations logits(const Step& s) override {
        weights_.done(config_.layers - 1);
        const Activations last{last_, s.logit_count, config_.hidden}, out{logits_, s.logit_count, config_.vocabulary};
        backend_.gather_rows(last, hidden(s), s.logit_rows);
        backend_.rms_norm(last, last, output_norm_, config_.norm_eps);
        apply(backend_, out, last, head_, s.precision, scratch_);
        return out;
    }

private:
    Activations hidden(const Step& s) const {
        return {x_ + std::int64_t(s.first_row) * config_.hidden, s.rows, config_.hidden};
    }
    Activations queries(const Step& s) const {
        const std::int64_t d = config_.heads * config_.head_dim;
        return {q_ + s.first_row * d, s.rows, d};
    }

    Backend& backend_;
    const PackedFile& weights_;
    CausalConfig config_;
    Workspace workspace_;
    std::unique_ptr<Buffer> table_;
    Rotary rotary_;
    Matrix embedding_;
    Vector output_norm_;
    Linear head_;
    std::vector<Layer> layers_;
    float *x_, *norm_, *qkv_, *q_, *k_, *v_, *attention_, *gate_up_, *inner_, *scratch_, *last_, *logits_;
};

}  // namespace

CausalConfig causal_config(const Gguf& f) {
    CausalConfig c;
    static_cast<ModelConfig&>(c) = common_config(f);
    const std::string a = c.architecture + ".";
    c.norm_eps = static_cast<float>(f.number(a + "attention.layer_norm_rms_epsilon"));
    c.rotary_dim = config_integer(f, a + "rope.dimension_count", c.head_dim, 2, c.head_dim);
    if (c.rotary_dim % 2 != 0) throw ModelError("the rotary dimension is odd");
    c.rope_theta = f.number(a + "rope.freq_base", 10000.0);
    c.prefix_tokens = config_integer(f, a + "prefix_tokens", 0, 0, 1 << 16);
    const std::string scaling = f.string(a + "rope.scaling.type", "none");
    if (scaling == "linear")
        c.rope_factors.assign(c.rotary_dim / 2, f.number(a + "rope.scaling.factor"));
    else if (scaling != "none")
        throw ModelError("the model stretches its context by \"" + scaling + "\" rotary scaling, which glmd doesn't do yet");
    if (f.integer(a + "expert_count", 0) > 0) throw ModelError("the model is a mixture of experts, which glmd doesn't run");
    return c;
}

std::vector<PackRecipe> causal_recipes(const Gguf& f) {
    std::vector<PackRecipe> r;
    auto one = [&](const std::string& name, bool vector) {
        if (f.find(name)) r.push_back({name, {name}, vector});
    };
    one("token_embd.weight", false);
    one("output.weight", false);
    one("output_norm.weight", true);
    for (const char* n : {"rope_freqs.weight", "prefix.key", "prefix.value"}) one(n, true);
    const int layers = static_cast<int>(f.integer(f.string("general.architecture") + ".block_count"));
    for (int i = 0; i < layers; ++i) {
        const std::string p = "blk." + std::to_string(i) + ".";
        for (const char* n : {"attn_norm.weight", "ffn_norm.weight", "post_attention_norm.weight", "post_ffw_norm.weight",
                              "attn_output.bias", "attn_qkv.bias"})
            one(p + n, true);
        one(p + "attn_output.weight", false);
        one(p + "ffn_down.weight", false);
        one(p + "attn_qkv.weight", false);
        if (!f.find(p + "attn_qkv.weight"))
            r.push_back({p + "attn_qkv.weight", {p + "attn_q.weight", p + "attn_k.weight", p + "attn_v.weight"}, false});
        if (f.find(p + "attn_q.bias"))
            r.push_back({p + "attn_qkv.bias", {p + "attn_q.bias", p + "attn_k.bias", p + "attn_v.bias"}, true});
        // ChatGLM's and GLM-4's ffn_up holds both halves, gate first; llama's are apart.
        if (f.find(p + "ffn_gate.weight"))
            r.push_back({p + "ffn_gate_up.weight", {p + "ffn_gate.weight", p + "ffn_up.weight"}, false});
        else
            r.push_back({p + "ffn_gate_up.weight", {p + "ffn_up.weight"}, false});
    }
    return r;
}

std::unique_ptr<Model> load_causal(const ModelContext& context, CausalConfig config) {
    return std::make_unique<CausalModel>(context, std::move(config));
}

}  // namespace glmd
