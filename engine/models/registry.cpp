// The explicit list of model families, and the pieces that they share.
#include <cmath>
#include <numeric>

#include "engine/models/model.h"
#include "kernels/half.h"

namespace glmd {

extern const ModelFamily llama_family, chatglm_family, glm4_family, chatglm1_family, glm_family, glm130b_family;

namespace {

float round_to_half(float x) { return half_to_float(float_to_half(x)); }

const ModelFamily* const families[] = {&llama_family, &chatglm_family, &glm4_family, &chatglm1_family, &glm_family, &glm130b_family};

}  // namespace

const ModelFamily* find_family(std::string_view architecture) {
    for (const ModelFamily* f : families)
        if (architecture == f->architecture) return f;
    return nullptr;
}

std::string known_architectures() {
    std::string names;
    for (const ModelFamily* f : families) names += (names.empty() ? "" : ", ") + std::string(f->architecture);
    return names;
}

PromptLayout causal_layout(std::span<const TokenId> prompt) {
    PromptLayout l;
    l.positions.resize(prompt.size());
    std::iota(l.positions.begin(), l.positions.end(), 0);
    l.block_positions.resize(prompt.size());
    return l;
}

TokenId special_token(const ModelContext& c, const std::string& key, std::initializer_list<const char*> names) {
    if (c.metadata.has("glmd.token." + key)) return config_integer(c.metadata, "glmd.token." + key, {}, 0, 1 << 24);
    for (const char* name : names)
        if (const auto id = c.tokenizer.special(name)) return *id;
    return -1;
}

int config_integer(const Gguf& f, const std::string& key, std::optional<std::int64_t> fallback, std::int64_t least,
                   std::int64_t most) {
    const std::int64_t v = f.integer(key, fallback);
    if (v < least || v > most) throw ModelError("the file says " + key + " = " + std::to_string(v) + ", which can't be");
    return static_cast<int>(v);
}

ModelConfig common_config(const Gguf& f) {
    ModelConfig c;
    c.architecture = f.string("general.architecture");
    const std::string a = c.architecture + ".";
    c.layers = config_integer(f, a + "block_count", {}, 1, 1000);
    c.hidden = config_integer(f, a + "embedding_length", {}, 1, 1 << 17);
    c.inner = config_integer(f, a + "feed_forward_length", {}, 1, 1 << 19);
    c.heads = config_integer(f, a + "attention.head_count", {}, 1, 1 << 12);
    c.kv_heads = config_integer(f, a + "attention.head_count_kv", c.heads, 1, c.heads);
    if (c.heads % c.kv_heads != 0) throw ModelError("the number of query heads isn't a multiple of the number of key heads");
    c.head_dim = config_integer(f, a + "attention.key_length", c.hidden / c.heads, 1, 1 << 12);
    c.trained_context = config_integer(f, a + "context_length", {}, 1, 1 << 24);
    std::optional<std::int64_t> tokens;
    if (f.has("tokenizer.ggml.tokens")) tokens = f.strings("tokenizer.ggml.tokens").size();
    c.vocabulary = config_integer(f, "glmd.vocabulary", tokens, 1, 1 << 24);
    return c;
}

float* Workspace::take(std::int64_t rows, std::int64_t cols) {
    buffers_.push_back(backend_->allocate(std::size_t(rows) * cols * sizeof(float)));
    bytes_ += buffers_.back()->bytes();
    return static_cast<float*>(buffers_.back()->data());
}

std::unique_ptr<Buffer> rotary_table(Backend& backend, int positions, int dim, double theta,
                                     const std::vector<double>& factors, bool half_rounded) {
    const int half = dim / 2;
    std::vector<float> table(std::size_t(positions) * half * 2);
    for (int i = 0; i < half; ++i) {
        // Upstream computes the frequency in float; doing the same keeps large positions equal to it.
        float frequency = static_cast<float>(std::pow(theta, -2.0 * i / dim) / (factors.empty() ? 1.0 : factors[i]));
        if (half_rounded) frequency = round_to_half(frequency);
        for (int p = 0; p < positions; ++p) {
            const float angle = static_cast<float>(p) * frequency;
            table[(std::size_t(p) * half + i) * 2] = static_cast<float>(std::cos(double(angle)));
            table[(std::size_t(p) * half + i) * 2 + 1] = static_cast<float>(std::sin(double(angle)));
        }
    }
    auto buffer = backend.allocate(table.size() * sizeof(float));
    backend.upload(buffer->data(), table.data(), table.size() * sizeof(float));
    return buffer;
}

void apply(Backend& backend, Activations out, Activations x, const Linear& linear, Precision precision, float* scratch) {
    if (linear.parts.size() == 1) return backend.linear(out, x, linear.parts[0], linear.bias, precision);
    std::int64_t first = 0;
    for (const Matrix& part : linear.parts) {
        const Vector bias = linear.bias ? Vector{linear.bias.data + first, part.rows} : Vector{};
        const Activations piece{scratch, x.rows, part.rows};
        backend.linear(piece, x, part, bias, precision);
        backend.put_columns(out, piece, first);
        first += part.rows;
    }
}

}  // namespace glmd
