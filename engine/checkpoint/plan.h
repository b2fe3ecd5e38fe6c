#pragma once
// What a family's recipe says about a conversion: metadata, and for each tensor of the output where its rows come from.
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/convert.h"

namespace glmd {

/// Some columns of a row: all of them, or one model-parallel rank's. Upstream's quantized weights have a scale for each row.
struct Part {
    const SourceTensor* weight = nullptr;
    const SourceTensor* scale = nullptr;
    int bits = 0;  // 0: floats; 8; 4: two to a byte, the even column in the high nibble
    std::int64_t cols = 0;
};

/// Rows first … first + count - 1 of one source tensor (of several side by side).
struct RowSpan {
    std::vector<Part> parts;
    std::int64_t first = 0, count = 0;
};

struct TargetTensor {
    enum class Kind : std::uint8_t { matrix, table, vector, computed };  // only a matrix takes the wanted type, others are f32
    std::string name;
    Kind kind = Kind::matrix;
    std::vector<std::int64_t> shape;  // PyTorch's order
    std::vector<RowSpan> rows;
    std::vector<float> values;  // computed
};

using MetadataValue = std::variant<bool, std::uint32_t, std::uint64_t, float, std::string>;

struct TokenizerFamily {
    enum class Kind : std::uint8_t { chatglm1, chatglm, glm } kind = Kind::chatglm;
    const char* bpe_pre = "chatglm-bpe";
    std::int64_t image_tokens = -1;  // ids in front of the text's; -1: what the tokenizer's folder says
};

struct Plan {
    std::string architecture;
    std::string chat_template;  // glmd's name for it; empty: decided with the tokenizer
    std::vector<std::pair<std::string, MetadataValue>> metadata;
    std::vector<TargetTensor> tensors;
    TokenizerFamily tokenizer;
    std::int64_t vocabulary = 0;
    std::vector<std::pair<std::string, std::int64_t>> special_ids;  // glmd.token.NAME
    std::vector<std::int64_t> end_ids;
    bool quantized = false;  // some source tensor is upstream's int4 or int8
};

/// Builds a plan; knows which source tensors were used, so that a checkpoint we don't understand isn't half converted.
class Planner {
public:
    Planner(const Checkpoint& checkpoint, Plan& plan) : checkpoint_(checkpoint), plan_(plan) {}
    const Checkpoint& checkpoint() const { return checkpoint_; }
    const Config& config() const { return checkpoint_.config(); }
    Plan& plan() { return plan_; }

    /// Adds "<architecture>.<key>".
    void key(const std::string& key, MetadataValue value);

    /// A checked reference to a source matrix [rows, cols] (cols 1: a vector [rows]); quantized ones are recognised.
    Part part(const std::string& name, std::int64_t rows, std::int64_t cols, int rank = 0);
    bool has(const std::string& name) const { return checkpoint_.find(name) != nullptr; }
    /// Upstream stores it, nobody needs it.
    void ignore(const std::string& name) { used_.insert(name); }

    void matrix(const std::string& target, const std::string& source, std::int64_t rows, std::int64_t cols);
    void table(const std::string& target, const std::string& source, std::int64_t rows, std::int64_t cols);
    void vector(const std::string& target, const std::string& source, std::int64_t size);
    /// Several sources stacked by rows.
    void stack(const std::string& target, const std::vector<std::pair<std::string, std::int64_t>>& sources, std::int64_t cols);
    /// Of rows per head [q | k | v] makes three blocks; heads are spread over the ranks.
    void untangle_qkv(const std::string& target, const std::string& source, std::int64_t heads, std::int64_t head_dim, std::int64_t cols);
    /// Model-parallel joins: by rows in rank order; by columns; every rank holding its part of each of `blocks` blocks.
    void join_rows(const std::string& target, const std::string& source, std::int64_t rows, std::int64_t cols, int blocks = 1);
    void join_columns(const std::string& target, const std::string& source, std::int64_t rows, std::int64_t cols);

    /// P-tuning: prefix.key and prefix.value [layers, tokens, kv_heads, head_dim] from "<source>.embedding.weight" (and .trans.*).
    void prefix(const Checkpoint& from, const std::string& source, std::int64_t layers, std::int64_t kv_heads, std::int64_t head_dim);

    /// Throws for a source tensor that nothing used.
    void check_all_used() const;

private:
    void add(const std::string& target, std::vector<RowSpan> rows, std::int64_t count, std::int64_t cols, TargetTensor::Kind kind);

    const Checkpoint& checkpoint_;
    Plan& plan_;
    std::set<std::string> used_;
};

/// Source floats of one row part.
void read_floats(const Part& part, std::int64_t row, float* out);

/// One file in families/ each; the order in convert.cpp is the order of asking.
struct CheckpointFamily {
    bool (*matches)(const Checkpoint& checkpoint);
    void (*plan)(Planner& planner);
    /// Adds a P-tuning prefix; nullptr where upstream has none.
    void (*add_prefix)(Planner& planner, const Checkpoint& prefix);
};

}  // namespace glmd
