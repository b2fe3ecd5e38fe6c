// What is peculiar: nothing is read here but the P-tuning prefix; a plan is only checked references. Whatever joins, splits
// or reorders rows (fused projections, heads, model-parallel ranks) is a list of row ranges.
#include "engine/checkpoint/plan.h"

#include <cmath>
#include <cstring>

#include "kernels/half.h"

namespace glmd {
namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string out = "[";
    for (const auto n : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(n);
    return out + "]";
}

bool is_float(SourceType t) { return t == SourceType::f32 || t == SourceType::f16 || t == SourceType::bf16; }

std::int64_t divided(const std::string& what, std::int64_t n, std::int64_t by) {
    if (by <= 0 || n % by != 0) throw ModelError(what + " (" + std::to_string(n) + ") can't be divided among " + std::to_string(by) + " parts.");
    return n / by;
}

}  // namespace

void Planner::key(const std::string& key, MetadataValue value) {
    plan_.metadata.emplace_back(plan_.architecture + "." + key, std::move(value));
}

Part Planner::part(const std::string& name, std::int64_t rows, std::int64_t cols, int rank) {
    const SourceTensor& t = checkpoint_.tensor(name, rank);
    used_.insert(name);
    const auto wrong = [&] {
        return ModelError(checkpoint_.folder() + ": the tensor \"" + name + "\" has the shape " + shape_text(t.shape) + " where [" +
                          std::to_string(rows) + ", " + std::to_string(cols) + "] is expected.");
    };
    const bool vector = t.shape.size() == 1;
    if (t.shape.empty() || t.shape.size() > 2 || t.shape[0] != rows || (vector && cols != 1)) throw wrong();
    const auto have = vector ? 1 : t.shape[1];
    Part p{&t, nullptr, 0, cols};
    if (is_float(t.type)) {
        if (have != cols) throw wrong();
        return p;
    }
    const auto scale_name = name + "_scale";
    const SourceTensor* scale = checkpoint_.find(scale_name, rank);
    if (!scale || t.type == SourceType::i64)
        throw ModelError(checkpoint_.folder() + ": the tensor \"" + name + "\" holds integers without a scale.");
    used_.insert(scale_name);
    if (have == cols && t.type == SourceType::i8) p.bits = 8;
    else if (cols % 2 == 0 && have == cols / 2) p.bits = 4;
    else throw wrong();
    if (scale->type != SourceType::f16 || scale->shape.empty() || scale->shape[0] != rows || scale->data.size() != static_cast<std::size_t>(rows) * 2)
        throw ModelError(checkpoint_.folder() + ": the tensor \"" + scale_name + "\" isn't one half-precision scale for each row.");
    p.scale = scale;
    plan_.quantized = true;
    return p;
}

void Planner::add(const std::string& target, std::vector<RowSpan> rows, std::int64_t count, std::int64_t cols, TargetTensor::Kind kind) {
    TargetTensor t;
    t.name = target;
    t.kind = kind;
    t.shape = kind == TargetTensor::Kind::vector ? std::vector<std::int64_t>{count} : std::vector<std::int64_t>{count, cols};
    t.rows = std::move(rows);
    plan_.tensors.push_back(std::move(t));
}

namespace {
TargetTensor::Kind kind_of(std::int64_t cols) { return cols == 1 ? TargetTensor::Kind::vector : TargetTensor::Kind::matrix; }
}  // namespace

void Planner::matrix(const std::string& target, const std::string& source, std::int64_t rows, std::int64_t cols) {
    add(target, {{{part(source, rows, cols)}, 0, rows}}, rows, cols, TargetTensor::Kind::matrix);
}

void Planner::table(const std::string& target, const std::string& source, std::int64_t rows, std::int64_t cols) {
    add(target, {{{part(source, rows, cols)}, 0, rows}}, rows, cols, TargetTensor::Kind::table);
}

void Planner::vector(const std::string& target, const std::string& source, std::int64_t size) {
    add(target, {{{part(source, size, 1)}, 0, size}}, size, 1, TargetTensor::Kind::vector);
}

void Planner::stack(const std::string& target, const std::vector<std::pair<std::string, std::int64_t>>& sources, std::int64_t cols) {
    std::vector<RowSpan> rows;
    std::int64_t count = 0;
    for (const auto& [name, n] : sources) {
        rows.push_back({{part(name, n, cols)}, 0, n});
        count += n;
    }
    add(target, std::move(rows), count, cols, kind_of(cols));
}

void Planner::untangle_qkv(const std::string& target, const std::string& source, std::int64_t heads, std::int64_t head_dim, std::int64_t cols) {
    const int ranks = checkpoint_.ranks();
    const auto each = divided("the number of heads", heads, ranks);
    std::vector<Part> parts;
    for (int r = 0; r < ranks; ++r) parts.push_back(part(source, each * 3 * head_dim, cols, r));
    std::vector<RowSpan> rows;
    for (std::int64_t block = 0; block < 3; ++block)
        for (const Part& p : parts)
            for (std::int64_t head = 0; head < each; ++head) rows.push_back({{p}, (head * 3 + block) * head_dim, head_dim});
    add(target, std::move(rows), heads * 3 * head_dim, cols, kind_of(cols));
}

void Planner::join_rows(const std::string& target, const std::string& source, std::int64_t rows, std::int64_t cols, int blocks) {
    const int ranks = checkpoint_.ranks();
    const auto each = divided("the rows of \"" + source + "\"", rows, std::int64_t{ranks} * blocks);
    std::vector<Part> parts;
    for (int r = 0; r < ranks; ++r) parts.push_back(part(source, each * blocks, cols, r));
    std::vector<RowSpan> spans;
    for (int b = 0; b < blocks; ++b)
        for (const Part& p : parts) spans.push_back({{p}, b * each, each});
    add(target, std::move(spans), rows, cols, kind_of(cols));
}

void Planner::join_columns(const std::string& target, const std::string& source, std::int64_t rows, std::int64_t cols) {
    const int ranks = checkpoint_.ranks();
    const auto each = divided("the columns of \"" + source + "\"", cols, ranks);
    RowSpan span{{}, 0, rows};
    for (int r = 0; r < ranks; ++r) span.parts.push_back(part(source, rows, each, r));
    add(target, {std::move(span)}, rows, cols, TargetTensor::Kind::matrix);
}

void Planner::prefix(const Checkpoint& from, const std::string& source, std::int64_t layers, std::int64_t kv_heads, std::int64_t head_dim) {
    const std::int64_t width = layers * 2 * kv_heads * head_dim;
    // A table of a few dozen rows, so it's held whole: [rows, cols] floats.
    const auto load = [&](const std::string& name, std::int64_t rows, std::int64_t cols) {
        const auto& t = from.tensor(source + name);
        if (&from == &checkpoint_) used_.insert(source + name);
        const auto have_cols = t.shape.size() == 2 ? t.shape[1] : 1;
        if (t.shape.empty() || t.shape.size() > 2 || !is_float(t.type) || (rows >= 0 && t.shape[0] != rows) || (cols >= 0 && have_cols != cols) ||
            t.shape[0] > (1 << 20) || have_cols > (1 << 24) || t.shape[0] * have_cols > (1 << 28))
            throw ModelError(from.folder() + ": the tensor \"" + source + name + "\" has the shape " + shape_text(t.shape) +
                             ", which doesn't fit the model.");
        std::vector<float> out(static_cast<std::size_t>(t.shape[0] * have_cols));
        const Part p{&t, nullptr, 0, have_cols};
        for (std::int64_t r = 0; r < t.shape[0]; ++r) read_floats(p, r, out.data() + r * have_cols);
        return std::pair{std::move(out), have_cols};
    };
    auto [table, cols] = load(".embedding.weight", -1, -1);
    const auto tokens = cols > 0 ? static_cast<std::int64_t>(table.size()) / cols : 0;
    if (tokens < 1) throw ModelError(from.folder() + ": the prefix is empty.");
    if (from.find(source + ".trans.0.weight")) {
        const auto [w0, in] = load(".trans.0.weight", -1, cols);
        const auto inner = static_cast<std::int64_t>(w0.size()) / cols;
        const auto [b0, one] = load(".trans.0.bias", inner, 1);
        const auto [w2, inner2] = load(".trans.2.weight", width, inner);
        const auto [b2, one2] = load(".trans.2.bias", width, 1);
        std::vector<float> out(static_cast<std::size_t>(tokens * width));
        std::vector<double> h(static_cast<std::size_t>(inner));
        for (std::int64_t t = 0; t < tokens; ++t) {
            for (std::int64_t i = 0; i < inner; ++i) {
                double sum = b0[static_cast<std::size_t>(i)];
                for (std::int64_t j = 0; j < cols; ++j) sum += double(w0[static_cast<std::size_t>(i * cols + j)]) * table[static_cast<std::size_t>(t * cols + j)];
                h[static_cast<std::size_t>(i)] = std::tanh(sum);
            }
            for (std::int64_t i = 0; i < width; ++i) {
                double sum = b2[static_cast<std::size_t>(i)];
                for (std::int64_t j = 0; j < inner; ++j) sum += double(w2[static_cast<std::size_t>(i * inner + j)]) * h[static_cast<std::size_t>(j)];
                out[static_cast<std::size_t>(t * width + i)] = static_cast<float>(sum);
            }
        }
        table = std::move(out);
        cols = width;
    }
    if (cols != width)
        throw ModelError(from.folder() + ": the prefix has " + std::to_string(cols) + " values a token where the model needs " +
                         std::to_string(width) + ".");
    for (const int which : {0, 1}) {
        TargetTensor t;
        t.name = which == 0 ? "prefix.key" : "prefix.value";
        t.kind = TargetTensor::Kind::computed;
        t.shape = {layers, tokens, kv_heads, head_dim};
        const auto slot = kv_heads * head_dim;
        for (std::int64_t layer = 0; layer < layers; ++layer)
            for (std::int64_t token = 0; token < tokens; ++token) {
                const float* p = table.data() + token * width + (2 * layer + which) * slot;
                t.values.insert(t.values.end(), p, p + slot);
            }
        plan_.tensors.push_back(std::move(t));
    }
    key("prefix_tokens", static_cast<std::uint32_t>(tokens));
}

void Planner::check_all_used() const {
    for (int r = 0; r < checkpoint_.ranks(); ++r)
        for (const auto& t : checkpoint_.tensors(r))
            if (!used_.contains(t.name) && t.name.find("inv_freq") == t.name.npos)
                throw ModelError(checkpoint_.folder() + ": the checkpoint has a tensor \"" + t.name.substr(0, 200) +
                                 "\" that this family (" + plan_.architecture + ") has no place for.");
}

void read_floats(const Part& part, std::int64_t row, float* out) {
    const SourceTensor& t = *part.weight;
    const auto cols = static_cast<std::size_t>(part.cols);
    if (part.bits != 0) {
        std::uint16_t half;
        std::memcpy(&half, part.scale->data.data() + row * 2, 2);
        const float scale = half_to_float(half);
        if (part.bits == 8) {
            const auto* q = reinterpret_cast<const std::int8_t*>(t.data.data()) + static_cast<std::size_t>(row) * cols;
            for (std::size_t i = 0; i < cols; ++i) out[i] = float(q[i]) * scale;
        } else {
            const auto* q = reinterpret_cast<const std::int8_t*>(t.data.data()) + static_cast<std::size_t>(row) * (cols / 2);
            for (std::size_t i = 0; i < cols / 2; ++i) {
                out[2 * i] = float(q[i] >> 4) * scale;
                out[2 * i + 1] = float(static_cast<std::int8_t>(static_cast<std::uint8_t>(q[i]) << 4) >> 4) * scale;
            }
        }
        return;
    }
    const std::byte* p = t.data.data() + static_cast<std::size_t>(row) * cols * bytes_of(t.type);
    if (t.type == SourceType::f32) {
        std::memcpy(out, p, cols * 4);
        return;
    }
    for (std::size_t i = 0; i < cols; ++i) {
        std::uint16_t v;
        std::memcpy(&v, p + 2 * i, 2);
        out[i] = t.type == SourceType::f16 ? half_to_float(v) : bf16_to_float(v);
    }
}

}  // namespace glmd
