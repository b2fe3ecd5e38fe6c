#pragma once
// How fast a model runs here: every figure is measured between two looks at what the machine allows (kernels/probe.h).
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "engine/loaded_model.h"

namespace glmd {

struct BenchOptions {
    std::vector<int> prompts, contexts, batches;  // tokens, tokens, sequences
    int tokens = 32;  // steps of one decode figure
    int repeat = 5;
    /// Called several times a second with what is being done; may throw to stop.
    std::function<void(const std::string& what)> on_progress;
};

/// A batch's sequences have this many tokens before the first step.
inline constexpr int bench_batch_context = 128;
/// The part of the processor's int8 peak that a step is held against: more has not been seen of any matrix product.
inline constexpr double reachable_int8 = 0.7;

/// What repeated measurements gave.
struct Spread {
    double median = 0, least = 0, most = 0;
    static Spread of(std::vector<double> samples);
};

enum class BenchKind { prefill, decode, step };

struct BenchFigure {
    BenchKind kind;
    int size;            // prompt's tokens; tokens before the answer; sequences
    int tokens;          // of one step; a prompt is one step
    double bytes, macs;  // of one step: read from memory, multiplied. Attention's products aren't counted.
    struct Sample {
        double seconds;          // of one step
        double bandwidth, int8;  // of the machine meanwhile, a second
        double joules;           // per token
    };
    std::vector<Sample> samples;

    Spread seconds() const { return spread([](const Sample& s) { return s.seconds; }); }
    Spread rate() const { return spread([this](const Sample& s) { return tokens / s.seconds; }); }
    Spread bandwidth() const { return spread([](const Sample& s) { return s.bandwidth; }); }
    Spread int8() const { return spread([](const Sample& s) { return s.int8; }); }
    Spread joules() const { return spread([](const Sample& s) { return s.joules; }); }
    Spread bandwidth_share() const { return spread([this](const Sample& s) { return bytes / s.seconds / s.bandwidth; }); }
    Spread int8_share() const { return spread([this](const Sample& s) { return macs / s.seconds / s.int8; }); }
    /// Time beside the least that memory and processor allow.
    Spread over_limit() const {
        return spread([this](const Sample& s) { return s.seconds / std::max(bytes / s.bandwidth, macs / (reachable_int8 * s.int8)); });
    }

private:
    template <class F>
    Spread spread(const F& f) const {
        std::vector<double> values;
        for (const Sample& s : samples) values.push_back(f(s));
        return Spread::of(std::move(values));
    }
};

/// What the machine allows, asked beside nothing else.
struct Limits {
    int threads = 0;
    Spread bandwidth, int8;  // bytes and multiplications a second
    std::string int8_loop;   // how they are multiplied
};
Limits measure_limits(const CpuOptions& cpu, int repeat);

struct BenchReport {
    ModelInfo model;
    Precision precision;
    KvType kv;
    int threads;
    std::string int8_loop, energy;  // energy: where it was read, empty where it can't be
    Spread load_s;                  // to ready, from packed weights in the page cache
    double weight_bytes, weight_macs;  // that one token's step reads and multiplies, head included
    double kv_token_bytes;             // keys and values of one token
    bool in_cache;                  // the processor's cache could hold the weights: memory isn't what limits them
    bool copied;                    // the weights are in huge pages of their own: mapped, they were slower
    std::size_t peak_bytes;         // resident, without the memory that was kept for its bandwidth
    std::vector<BenchFigure> figures;
    std::vector<std::string> left_out;  // "prompt 2048": longer than the model's context
};

/// Packs the model if need be, loads it and measures. `engine` says precision, KV type, processor and cache; the rest follows
/// from what is measured. Throws as load_model().
BenchReport run_bench(const std::string& gguf_path, EngineOptions engine, const BenchOptions& options);

}  // namespace glmd
