#pragma once
// What a model family is to the engine. A family is one file: hyper-parameters from the file's metadata, the tensors it
// needs, the forward pass in Backend calls, and its row in registry.cpp.
#include <memory>
#include <string>
#include <vector>

#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/pack.h"
#include "kernels/backend.h"

namespace glmd {

/// Hyper-parameters that all families have. Sizes are data.
struct ModelConfig {
    std::string architecture;
    int layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, inner = 0, vocabulary = 0;
    int trained_context = 0;
    float norm_eps = 1e-5f;
};

/// A projection whose rows may be stored in several matrices (fused tensors of unlike types).
struct Linear {
    std::vector<Matrix> parts;
    Vector bias;
};

/// One step's rows as the model sees them; pointers are backend memory.
struct Step {
    int rows = 0;
    const std::int32_t* ids = nullptr;        // [rows]
    const std::int32_t* positions = nullptr;  // [rows]
    StepTables tables;
    KvPool* kv = nullptr;
    Precision precision = Precision::exact;
    const std::int32_t* logit_rows = nullptr;  // [logit_count] rows whose logits are wanted
    int logit_count = 0;
};

/// forward = embed, layer 0 … layers - 1, logits; the engine may do other work between two layers of one step.
class Model {
public:
    virtual ~Model() = default;
    virtual const ModelConfig& config() const = 0;
    /// Fills the hidden state [rows, hidden] from ids.
    virtual void embed(const Step& step) = 0;
    virtual void layer(const Step& step, int index) = 0;
    /// [logit_count, vocabulary]
    virtual Activations logits(const Step& step) = 0;
    virtual std::size_t workspace_bytes() const = 0;
};

struct ModelContext {
    Backend& backend;
    const Gguf& metadata;
    const PackedFile& weights;
    int context;   // positions to prepare tables for
    int max_rows;  // rows of one step
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

/// [positions, dim / 2] of (cos, sin) of position * theta^(-2 i / dim) / factor[i].
std::unique_ptr<Buffer> rotary_table(Backend& backend, int positions, int dim, double theta,
                                     const std::vector<double>& factors = {});

/// out = x W^T + bias over the parts of a projection; `scratch` holds [rows, widest part] when there are several.
void apply(Backend& backend, Activations out, Activations x, const Linear& linear, Precision precision, float* scratch);

}  // namespace glmd
