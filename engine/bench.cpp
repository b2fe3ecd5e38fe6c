// What is peculiar: ids don't matter to time, so prompts are random numbers, and keys and values are those of a block of 32
// tokens, copied wherever an answer looks back. Steps are put together as the engine's thread does, without its queue and
// without sampling; nothing stops at an end token.
#include "engine/bench.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <random>

#include "engine/available_memory.h"
#include "engine/energy.h"
#include "engine/memory_plan.h"
#include "engine/step_buffers.h"
#include "kernels/probe.h"

namespace glmd {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

int threads_of(const CpuOptions& cpu) { return cpu.threads > 0 ? cpu.threads : cpu_cores(); }

/// The loop that uses what the instruction set uses, or the processor's best.
std::string int8_loop_of(const CpuOptions& cpu) {
    const std::string isa = cpu.isa.empty() ? cpu_instruction_sets().front() : cpu.isa;
    const auto loops = int8_loops();
    return std::find(loops.begin(), loops.end(), isa) != loops.end() ? isa : loops.front();
}

/// What a step reads whatever it is about. Of an embedding only rows are read.
struct Weights {
    double bytes = 0, layer_macs = 0, head_macs = 0;
    explicit Weights(const PackedFile& file) {
        const bool tied = !file.has("output.weight") && !file.has("output.weight.0");
        file.each([&](const std::string& name, const Matrix& m, bool vector) {
            const bool embedding = name == "token_embd.weight", head = name.starts_with("output.weight") || (tied && embedding);
            if ((embedding && !tied) || name == "position_embd.weight" || name == "block_position_embd.weight" || name == "rope_freqs.weight") return;
            bytes += double(m.bytes);
            if (!vector) (head ? head_macs : layer_macs) += double(m.rows) * double(m.cols);
        });
    }
};

class Bench {
public:
    Bench(LoadedModel& model, const EngineOptions& engine, const BenchOptions& options)
        : m_(model), engine_(engine), options_(options), weights_(*model.weights),
          buffers_(*model.backend, engine.prefill_rows, engine.batch(), model.pool->blocks()), threads_(threads_of(engine.cpu)),
          loop_(int8_loop_of(engine.cpu)), memory_(threads_, available_memory() / 2) {
        std::mt19937 random(1);
        for (int i = 0; i < engine.context; ++i) ids_.push_back(static_cast<TokenId>(random() % std::uint32_t(model.info.vocabulary)));
        prefill(std::min(kv_block_tokens, engine.context));
        for (int b = 1; b < model.pool->blocks(); ++b) m_.backend->kv_copy(*m_.pool, 0, b);
    }

    void measure(BenchReport& report) {
        for (const int n : options_.prompts) figures_.push_back(figure(BenchKind::prefill, n));
        for (const int n : options_.contexts) figures_.push_back(figure(BenchKind::decode, n));
        for (const int n : options_.batches) figures_.push_back(figure(BenchKind::step, n));
        Machine before = machine();
        for (int round = 0; round < options_.repeat; ++round)
            for (BenchFigure& f : figures_) {
                what_ = label(f) + ", round " + std::to_string(round + 1) + " of " + std::to_string(options_.repeat);
                const double joules = energy_.joules();
                const double seconds = f.kind == BenchKind::prefill ? prefill(f.size)
                                       : f.kind == BenchKind::decode ? decode(f.size, 1)
                                                                     : decode(bench_batch_context, f.size);
                const double steps = f.kind == BenchKind::prefill ? 1 : options_.tokens;
                const double used = energy_.joules() - joules;
                const Machine after = machine();
                f.samples.push_back({seconds, 0.5 * (before.bandwidth + after.bandwidth), 0.5 * (before.int8 + after.int8), used / (steps * f.tokens)});
                before = after;
            }
        report.figures = std::move(figures_);
        report.weight_bytes = weights_.bytes;
        report.weight_macs = weights_.layer_macs + weights_.head_macs;
        report.kv_token_bytes = kv_token_bytes();
        report.in_cache = weights_.bytes < double(last_cache_bytes());
        report.threads = threads_;
        report.int8_loop = loop_;
        report.energy = energy_.source();
        report.peak_bytes = number_of("/proc/self/status", "VmHWM:") * 1024 - memory_.bytes();
    }

private:
    struct Machine {
        double bandwidth, int8;
    };
    Machine machine() { return {memory_.bandwidth(), int8_rate(loop_, threads_)}; }

    static std::string label(const BenchFigure& f) {
        return (f.kind == BenchKind::prefill ? "prefill " : f.kind == BenchKind::decode ? "decode at " : "batch of ") + std::to_string(f.size);
    }

    double kv_token_bytes() const {
        const KvShape kv = m_.pool->shape();
        return 2.0 * kv.layers * kv.kv_heads * double(kv.token_bytes());
    }

    BenchFigure figure(BenchKind kind, int n) const {
        const double all_macs = weights_.layer_macs + weights_.head_macs;
        if (kind == BenchKind::prefill) return {kind, n, n, weights_.bytes, n * weights_.layer_macs + weights_.head_macs, {}};
        const int sequences = kind == BenchKind::step ? n : 1, context = kind == BenchKind::step ? bench_batch_context : n;
        const double seen = context + 0.5 * (options_.tokens + 1);  // keys of a step in the middle
        return {kind, n, sequences, weights_.bytes + sequences * seen * kv_token_bytes(), sequences * all_macs, {}};
    }

    void progress() const {
        if (options_.on_progress) options_.on_progress(what_);
    }

    /// Sequence `index` has `blocks` blocks of its own; its tokens [first, first + count) become rows.
    void add_rows(const PromptLayout& layout, int index, int blocks, int first, int count) {
        std::vector<std::int32_t> table;
        for (int b = 0; b < blocks; ++b) table.push_back(index * blocks + b);
        const int sequence = buffers_.add_sequence(table, layout.bidirectional);
        for (int i = first; i < first + count; ++i) {
            const auto [position, block_position] = layout.place(i);
            buffers_.add_row(ids_[static_cast<std::size_t>(i)], position, block_position, i, sequence);
        }
        buffers_.logit_rows.push_back(static_cast<std::int32_t>(buffers_.ids.size()) - 1);
    }

    void layers(const Step& step) {
        m_.model->embed(step);
        for (int l = 0; l < m_.info.layers; ++l) {
            m_.model->keys(step, l);
            m_.model->rest(step, l);
            progress();
        }
    }

    void take_logits(const Step& step) {
        const Activations logits = m_.model->logits(step);
        logits_.resize(std::size_t(logits.rows) * std::size_t(logits.cols));
        m_.backend->download(logits_.data(), logits.data, logits_.size() * sizeof(float));
    }

    double prefill(int tokens) {
        const int rows = engine_.prefill_rows;
        const auto begin = Clock::now();
        const PromptLayout layout = m_.model->layout(std::span(ids_).first(static_cast<std::size_t>(tokens)));
        const auto step_at = [&](int first, int first_row) {
            buffers_.clear();
            add_rows(layout, 0, kv_blocks_for(tokens), first, std::min(rows, tokens - first));
            return buffers_.upload(*m_.pool, m_.precision, first_row);
        };
        Step step;
        if (layout.bidirectional == 0) {
            for (int first = 0; first < tokens; first += rows) layers(step = step_at(first, 0));
        } else {  // every layer's keys before its queries
            for (int half = 0; half < 2 * m_.info.layers; ++half)
                for (int first = 0; first < tokens; first += rows) {
                    step = step_at(first, rows + engine_.batch() + first);
                    if (half == 0) m_.model->embed(step);
                    if (half % 2 == 0) m_.model->keys(step, half / 2);
                    else m_.model->rest(step, half / 2);
                    progress();
                }
        }
        take_logits(step);
        return since(begin);
    }

    /// Seconds of a step that gives each of the sequences a token, on average; the first one isn't counted.
    double decode(int context, int sequences) {
        const PromptLayout layout = m_.model->layout(std::span(ids_).first(static_cast<std::size_t>(context)));
        const int blocks = kv_blocks_for(context + options_.tokens);
        Clock::time_point begin;
        for (int i = -1; i < options_.tokens; ++i) {
            if (i == 0) begin = Clock::now();
            buffers_.clear();
            for (int s = 0; s < sequences; ++s) add_rows(layout, s, blocks, context + std::max(i, 0), 1);
            const Step step = buffers_.upload(*m_.pool, m_.precision);
            layers(step);
            take_logits(step);
        }
        return since(begin) / options_.tokens;
    }

    LoadedModel& m_;
    const EngineOptions& engine_;
    const BenchOptions& options_;
    Weights weights_;
    StepBuffers buffers_;
    int threads_;
    std::string loop_, what_ = "filling the KV cache";
    MemoryProbe memory_;
    EnergyMeter energy_;
    std::vector<TokenId> ids_;
    std::vector<float> logits_;
    std::vector<BenchFigure> figures_;
};

/// Sizes the engine for what is measured; takes out what the model's context doesn't hold.
std::vector<std::string> fit(EngineOptions& engine, BenchOptions& options, const ModelShape& shape) {
    std::vector<std::string> left_out;
    engine.context = kv_block_tokens;
    engine.max_sequences = 1;
    const auto keep = [&](std::vector<int>& sizes, const char* what, const auto& tokens) {
        std::erase_if(sizes, [&](int n) {
            const bool longer = tokens(n) > shape.trained_context;
            if (longer) left_out.push_back(what + std::to_string(n));
            else engine.context = std::max(engine.context, tokens(n));
            return longer;
        });
    };
    keep(options.prompts, "prompt ", [](int n) { return n; });
    keep(options.contexts, "decode at ", [&](int n) { return n + options.tokens; });
    keep(options.batches, "batch of ", [&](int) { return bench_batch_context + options.tokens; });
    for (const int n : options.batches) engine.max_sequences = std::max(engine.max_sequences, n);
    engine.context = std::min(engine.context, shape.trained_context);
    const KvType kv = engine.kv.value_or(default_kv_type(engine.precision.value_or(default_precision(shape.parameters))));
    const int batch_blocks = options.batches.empty() ? 1 : engine.max_sequences * kv_blocks_for(bench_batch_context + options.tokens);
    engine.kv_bytes = KvShape{shape.layers, shape.kv_heads, shape.head_dim, kv}.block_bytes() * std::size_t(batch_blocks);
    engine.spare_sequences = 0;
    return left_out;
}

}  // namespace

Spread Spread::of(std::vector<double> v) {
    if (v.empty()) return {};
    std::sort(v.begin(), v.end());
    const std::size_t n = v.size();
    return {0.5 * (v[(n - 1) / 2] + v[n / 2]), v.front(), v.back()};
}

Limits measure_limits(const CpuOptions& cpu, int repeat) {
    Limits limits{threads_of(cpu), {}, {}, int8_loop_of(cpu)};
    MemoryProbe memory(limits.threads, available_memory() / 2);
    std::vector<double> bandwidth, int8;
    for (int i = 0; i < repeat; ++i) {
        bandwidth.push_back(memory.bandwidth());
        int8.push_back(int8_rate(limits.int8_loop, limits.threads));
    }
    limits.bandwidth = Spread::of(std::move(bandwidth));
    limits.int8 = Spread::of(std::move(int8));
    return limits;
}

BenchReport run_bench(const std::string& gguf_path, EngineOptions engine, const BenchOptions& asked) {
    BenchOptions options = asked;
    BenchReport report{};
    report.left_out = fit(engine, options, shape_of(Gguf(gguf_path)));
    std::optional<LoadedModel> model(load_model(gguf_path, engine));  // packs, or at least brings the file into memory
    engine.on_pack = {};
    std::vector<double> loads;
    for (int i = 0; i < options.repeat; ++i) {
        if (options.on_progress) options.on_progress("loading");
        model.reset();
        model.emplace(load_model(gguf_path, engine));
        loads.push_back(model->info.load_s);
    }
    report.copied = model->weights->settled();
    report.load_s = Spread::of(std::move(loads));
    report.model = model->info;
    report.precision = model->precision;
    report.kv = model->pool->shape().type;
    Bench(*model, engine, options).measure(report);
    return report;
}

}  // namespace glmd
