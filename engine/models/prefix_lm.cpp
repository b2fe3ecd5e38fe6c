// Shapes as in causal.cpp: x [rows, hidden]; qkv [rows, 3 * heads * head_dim]; inner [rows, inner] or [rows, 2 * inner].
#include "engine/models/prefix_lm.h"

#include <algorithm>
#include <cmath>

namespace glmd {
namespace {

struct Norm {
    Vector weight, bias;
};

struct Layer {
    Norm attention_norm, ffn_norm;
    Linear qkv, output, up, down;
    AttentionPrefix prefix;
};

class PrefixLm final : public Model {
public:
    PrefixLm(const ModelContext& c, PrefixLmConfig config, PlacePrompt layout)
        : backend_(c.backend), weights_(c.weights), config_(std::move(config)), layout_(std::move(layout)), workspace_(c.backend) {
        const PackedFile& w = c.weights;
        const int h = config_.hidden, d = config_.heads * config_.head_dim;
        const int up = config_.gate == Gate::none ? config_.inner : 2 * config_.inner;
        auto norm = [&](const std::string& name) { return Norm{w.vector(name + ".weight", h), w.vector(name + ".bias", h)}; };
        auto linear = [&](const std::string& name, int rows, int cols) {
            return Linear{w.matrices(name + ".weight", rows, cols), w.vector(name + ".bias", rows)};
        };
        embedding_ = w.matrices("token_embd.weight", config_.vocabulary, h).at(0);
        head_.parts = w.matrices(w.has("output.weight") ? "output.weight" : "token_embd.weight", config_.vocabulary, h);
        output_norm_ = norm("output_norm");
        if (config_.learned_positions) {
            positions_ = w.matrices("position_embd.weight", w.rows("position_embd.weight"), h).at(0);
            block_positions_ = w.matrices("block_position_embd.weight", w.rows("block_position_embd.weight"), h).at(0);
        }
        const std::size_t prefix = std::size_t(config_.prefix_tokens) * d;
        for (int i = 0; i < config_.layers; ++i) {
            const std::string p = "blk." + std::to_string(i) + ".";
            Layer l{norm(p + "attn_norm"), norm(p + "ffn_norm"), linear(p + "attn_qkv", 3 * d, h), linear(p + "attn_output", h, d),
                    linear(p + "ffn_up", up, h), linear(p + "ffn_down", h, config_.inner), {}};
            if (prefix > 0)
                l.prefix = {config_.prefix_tokens, w.vector("prefix.key", prefix * config_.layers).data + i * prefix,
                            w.vector("prefix.value", prefix * config_.layers).data + i * prefix};
            layers_.push_back(std::move(l));
        }
        if (config_.rotary_streams > 0) {
            const int dim = config_.head_dim / config_.rotary_streams;
            table_ = rotary_table(backend_, c.context, dim, 10000, {}, true);
            for (int s = 0; s < config_.rotary_streams; ++s)
                rotary_[s] = {s * dim, dim, RotaryPairing::half, static_cast<const float*>(table_->data()), c.context};
        }
        const std::int64_t n = c.max_rows;
        x_ = workspace_.take(c.kept_rows, h);
        q_ = workspace_.take(c.kept_rows, d);
        norm_ = workspace_.take(n, h);
        part_ = workspace_.take(n, h);
        // keys() is done with its projections before rest() begins, and rest() with what attention gave before `inner` is filled.
        float* shared = workspace_.take(n, std::max(5 * d, up + std::max(config_.inner, d)));
        qkv_ = shared, k_ = qkv_ + n * 3 * d, v_ = k_ + n * d;
        up_ = shared, inner_ = attention_ = up_ + n * up;
        scratch_ = workspace_.take(n, std::max(3 * d, up));
        last_ = workspace_.take(c.max_logit_rows, h);
        logits_ = workspace_.take(c.max_logit_rows, config_.vocabulary);
    }

    const ModelConfig& config() const override { return config_; }
    std::size_t workspace_bytes() const override { return workspace_.bytes(); }
    PromptLayout layout(std::span<const TokenId> prompt, std::span<const BlankRows> blanks) const override {
        return layout_(prompt, blanks);
    }

    void embed(const Step& s) override {
        const Activations x = hidden(s);
        backend_.embedding(x, embedding_, s.ids);
        if (!config_.learned_positions) return;
        backend_.add_positions(x, positions_, s.positions);
        backend_.add_positions(x, block_positions_, s.block_positions);
    }

    void keys(const Step& s, int index) override {
        weights_.need(index);
        const Layer& l = layers_[index];
        const int d = config_.heads * config_.head_dim;
        const Activations norm{norm_, s.rows, config_.hidden}, qkv{qkv_, s.rows, 3 * d};
        const Activations q = queries(s), k{k_, s.rows, d}, v{v_, s.rows, d};
        backend_.layer_norm(norm, hidden(s), l.attention_norm.weight, l.attention_norm.bias, config_.norm_eps);
        apply(backend_, qkv, norm, l.qkv, s.precision, scratch_);
        backend_.take_columns(q, qkv, 0);
        backend_.take_columns(k, qkv, d);
        backend_.take_columns(v, qkv, 2 * d);
        for (int r = 0; r < config_.rotary_streams; ++r)
            for (const Activations& t : {q, k})
                backend_.rotary(t, config_.head_dim, rotary_[r], r == 0 ? s.positions : s.block_positions);
        backend_.kv_write(*s.kv, index, k, v, s.tables);
    }

    void rest(const Step& s, int index) override {
        weights_.need(index);
        const Layer& l = layers_[index];
        const Activations x = hidden(s), norm{norm_, s.rows, config_.hidden}, part{part_, s.rows, config_.hidden};
        const Activations att{attention_, s.rows, config_.heads * config_.head_dim}, inner{inner_, s.rows, config_.inner};
        const Activations up{up_, s.rows, config_.gate == Gate::none ? config_.inner : 2 * config_.inner};
        const float alpha = config_.alpha > 0 ? config_.alpha : 1.0f;

        backend_.layer_norm(norm, x, l.attention_norm.weight, l.attention_norm.bias, config_.norm_eps);
        backend_.attention(att, queries(s), *s.kv, index, s.tables, 1.0f / std::sqrt(float(config_.head_dim)), l.prefix);
        apply(backend_, part, att, l.output, s.precision, scratch_);
        backend_.residual(x, config_.alpha > 0 ? norm : x, alpha, part);

        backend_.layer_norm(norm, x, l.ffn_norm.weight, l.ffn_norm.bias, config_.norm_eps);
        apply(backend_, up, norm, l.up, s.precision, scratch_);
        backend_.activation(inner, up, config_.function, config_.gate);
        apply(backend_, part, inner, l.down, s.precision, scratch_);
        backend_.residual(x, config_.alpha > 0 ? norm : x, alpha, part);
    }

    Activations logits(const Step& s) override {
        weights_.done(config_.layers - 1);
        const Activations last{last_, s.logit_count, config_.hidden}, out{logits_, s.logit_count, config_.vocabulary};
        backend_.gather_rows(last, hidden(s), s.logit_rows);
        backend_.layer_norm(last, last, output_norm_.weight, output_norm_.bias, config_.norm_eps);
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
    PrefixLmConfig config_;
    PlacePrompt layout_;
    Workspace workspace_;
    std::unique_ptr<Buffer> table_;
    Rotary rotary_[2];
    Matrix embedding_, positions_, block_positions_;
    Norm output_norm_;
    Linear head_;
    std::vector<Layer> layers_;
    float *x_, *q_, *norm_, *part_, *qkv_, *k_, *v_, *attention_, *up_, *inner_, *scratch_, *last_, *logits_;
};

}  // namespace

PrefixLmConfig prefix_lm_config(const Gguf& f) {
    PrefixLmConfig c;
    static_cast<ModelConfig&>(c) = common_config(f);
    c.kv_heads = c.heads;
    const std::string a = c.architecture + ".";
    c.norm_eps = static_cast<float>(f.number(a + "attention.layer_norm_epsilon", 1e-5));
    c.prefix_tokens = config_integer(f, a + "prefix_tokens", 0, 0, 1 << 16);
    return c;
}

std::vector<PackRecipe> prefix_lm_recipes(const Gguf& f) {
    std::vector<PackRecipe> r;
    auto one = [&](const std::string& name, bool vector) {
        if (f.find(name)) r.push_back({name, {name}, vector});
    };
    for (const char* n : {"token_embd.weight", "output.weight", "position_embd.weight", "block_position_embd.weight"}) one(n, false);
    for (const char* n : {"output_norm.weight", "output_norm.bias", "prefix.key", "prefix.value"}) one(n, true);
    const int layers = static_cast<int>(f.integer(f.string("general.architecture") + ".block_count"));
    for (int i = 0; i < layers; ++i) {
        const std::string p = "blk." + std::to_string(i) + ".";
        for (const char* n : {"attn_norm", "ffn_norm"})
            for (const char* e : {".weight", ".bias"}) one(p + n + e, true);
        for (const char* n : {"attn_qkv", "attn_output", "ffn_up", "ffn_down"}) {
            one(p + n + ".weight", false);
            one(p + n + ".bias", true);
        }
    }
    return r;
}

std::unique_ptr<Model> load_prefix_lm(const ModelContext& context, PrefixLmConfig config, PlacePrompt layout) {
    return std::make_unique<PrefixLm>(context, std::move(config), std::move(layout));
}

std::vector<BlankRows> blanks_or_first(std::span<const TokenId> prompt, std::span<const BlankRows> blanks,
                                       TokenId start, const std::vector<TokenId>& masks) {
    if (!blanks.empty()) return {blanks.begin(), blanks.end()};
    const int begin = static_cast<int>(std::find(prompt.begin(), prompt.end(), start) - prompt.begin());
    const auto at = std::find_first_of(prompt.begin(), prompt.end(), masks.begin(), masks.end());
    return {{at == prompt.end() ? std::max(0, begin - 1) : static_cast<int>(at - prompt.begin()), begin}};
}

PromptLayout block_layout(std::span<const TokenId> prompt, const std::vector<BlankRows>& blanks) {
    PromptLayout l = causal_layout(prompt);
    l.bidirectional = blanks.front().start;
    for (const BlankRows& b : blanks)  // a later one overwrites the tail
        for (int i = b.start; i < static_cast<int>(prompt.size()); ++i) {
            l.positions[i] = b.mask;
            l.block_positions[i] = i - b.start + 1;
        }
    l.position_step = 0, l.block_step = 1;
    return l;
}

std::optional<BlankRules> usable(BlankRules rules) {
    if (rules.start < 0 || rules.id(BlankKind::words) < 0) return {};
    return rules;
}

}  // namespace glmd
