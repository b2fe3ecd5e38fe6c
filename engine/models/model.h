#pragma once
// What a model family is to the engine. A family is one file: hyper-parameters from the file's metadata, the tensors it
// needs, the forward pass in Backend calls, and its row in registry.cpp.
#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/pack.h"
#include "engine/infill.h"
#include "engine/tokenizer.h"
#include "kernels/backend.h"

namespace glmd {

/// Hyper-parameters that all families have. Sizes are data.
struct ModelConfig {
    std::string architecture;
    int layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, inner = 0, vocabulary = 0;
    int trained_context = 0;
    int prefix_tokens = 0;  // P-tuning v2: keys and values that every row sees
    float norm_eps = 1e-5f;
    std::optional<BlankRules> blanks;  // set by families that fill blanks
};

/// Where a prompt's tokens stand, and how its answer goes on. Made on the host, once per request.
struct PromptLayout {
    std::vector<std::int32_t> positions, block_positions;  // one per prompt token
    int bidirectional = 0;   // tokens below this index are seen by every row; 0: plain causal
    int position_step = 1;   // of the answer's tokens: position += position_step, block position += block_step
    int block_step = 0;
    /// Position and block position of token `index` of prompt and answer.
    std::pair<int, int> place(int index) const {
        const int last = std::min(index, static_cast<int>(positions.size()) - 1), after = index - last;
        return {positions[last] + after * position_step, block_positions[last] + after * block_step};
    }
};
/// 0, 1, 2, … and nothing else.
PromptLayout causal_layout(std::span<const TokenId> prompt);

/// A projection whose rows may be stored in several matrices (fused tensors of unlike types).
struct Linear {
    std::vector<Matrix> parts;
    Vector bias;
};

/// One step's rows as the model sees them; pointers are backend memory.
///
/// A model keeps the hidden state and the queries of a step from first_row on. Batches use the rows from 0; a prompt that
/// sees itself in both directions, which must finish a layer before the next one, has the rows behind them to itself and is
/// worked on a few rows at a time: all of a layer's keys() first, then its rest(). So is a step with more rows than max_rows,
/// cut by slice(): embed() and logits() take it whole.
struct Step {
    int rows = 0;
    int first_row = 0;
    const std::int32_t* ids = nullptr;              // [rows]
    const std::int32_t* positions = nullptr;        // [rows]
    const std::int32_t* block_positions = nullptr;  // [rows]
    StepTables tables;
    KvPool* kv = nullptr;
    Precision precision = Precision::exact;
    const std::int32_t* logit_rows = nullptr;  // [logit_count] rows whose logits are wanted
    int logit_count = 0;

    Step slice(int first, int count) const {
        Step s = *this;
        s.rows = count, s.first_row += first;
        s.ids += first, s.positions += first, s.block_positions += first;
        s.tables = tables.slice(first, count);
        return s;
    }
};

/// forward = embed, then keys and rest of layer 0 … layers - 1, then logits; the engine may do other work in between.
class Model {
public:
    virtual ~Model() = default;
    virtual const ModelConfig& config() const = 0;
    /// Fills the hidden state [rows, hidden] from ids.
    virtual void embed(const Step& step) = 0;
    /// First half of a layer: norm, projections, rotary, KV write; keeps the queries.
    virtual void keys(const Step& step, int layer) = 0;
    /// Second half: attention over what is in the cache, output projection, MLP.
    virtual void rest(const Step& step, int layer) = 0;
    /// [logit_count, vocabulary]
    virtual Activations logits(const Step& step) = 0;
    virtual std::size_t workspace_bytes() const = 0;
    /// `blanks`: where the prompt's answers begin, and to which masks; empty: one answer, to the first mask there is.
    virtual PromptLayout layout(std::span<const TokenId> prompt, std::span<const BlankRows> blanks = {}) const {
        (void)blanks;
        return causal_layout(prompt);
    }
};

struct ModelContext {
    Backend& backend;
    const Gguf& metadata;
    const PackedFile& weights;
    const Tokenizer& tokenizer;
    int context;   // positions to prepare tables for
    int max_rows;  // rows of one call
    int kept_rows;  // rows whose hidden state and queries are kept from one call to the next
    int max_logit_rows;
};

struct ModelFamily {
    const char* architecture;  // general.architecture
    ModelConfig (*config)(const Gguf& metadata);
    std::vector<PackRecipe> (*recipes)(const Gguf& file);
    std::unique_ptr<Model> (*load)(const ModelContext& context);
};

/// The explicit list; nullptr for an architecture nobody wrote a file for.
const ModelFamily* find_family(std::string_view architecture);
std::string known_architectures();

// Pieces that families share.

/// Activation buffers for one step at a time: take() carves [rows, cols] for max_rows.
class Workspace {
public:
    explicit Workspace(Backend& backend) : backend_(&backend) {}
    float* take(std::int64_t rows, std::int64_t cols);
    std::size_t bytes() const { return bytes_; }

private:
    Backend* backend_;
    std::vector<std::unique_ptr<Buffer>> buffers_;
    std::size_t bytes_ = 0;
};

/// The id of a special token: what the file says under "glmd.token.<key>", else the first of the tokenizer's names that
/// exists, else -1.
TokenId special_token(const ModelContext& context, const std::string& key, std::initializer_list<const char*> names);

/// An integer of the metadata within [least, most]; ModelError that names it otherwise.
int config_integer(const Gguf& file, const std::string& key, std::optional<std::int64_t> fallback, std::int64_t least,
                   std::int64_t most);
/// What every family has, under "<architecture>." with llama.cpp's keys.
ModelConfig common_config(const Gguf& file);

/// [positions, dim / 2] of (cos, sin) of position * theta^(-2 i / dim) / factor[i]; `half_rounded` rounds the inverse
/// frequencies to IEEE half first, as ChatGLM-6B and GLM-130B do.
std::unique_ptr<Buffer> rotary_table(Backend& backend, int positions, int dim, double theta,
                                     const std::vector<double>& factors = {}, bool half_rounded = false);

/// out = x W^T + bias over the parts of a projection; `scratch` holds [rows, widest part] when there are several.
void apply(Backend& backend, Activations out, Activations x, const Linear& linear, Precision precision, float* scratch);

}  // namespace glmd
