// Without the daemon, and with a cache of packed weights of the user's own. Every figure stands beside what memory and processor
// allowed in the moment of its measurement, since on a shared machine a figure alone tells little.
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "cli/model.h"
#include "engine/bench.h"

namespace glmd {

namespace {

namespace fs = std::filesystem;

template <class... T>
std::string format(const char* pattern, T... values) {
    char text[200];
    std::snprintf(text, sizeof text, pattern, values...);
    return text;
}

json::object to_json(const Spread& s) { return {{"median", s.median}, {"min", s.least}, {"max", s.most}}; }

json::object to_json(const BenchFigure& f) {
    json::object o{{f.kind == BenchKind::prefill ? "prompt" : f.kind == BenchKind::decode ? "context" : "batch", f.size},
                   {"tokens_per_s", to_json(f.rate())},
                   {"seconds", to_json(f.seconds())},
                   {"bytes", f.bytes},
                   {"macs", f.macs},
                   {"bandwidth", to_json(f.bandwidth())},
                   {"int8", to_json(f.int8())}};
    if (f.kind == BenchKind::prefill) o["share"] = to_json(f.int8_share());
    if (f.kind == BenchKind::decode) o["share"] = to_json(f.bandwidth_share());
    if (f.kind == BenchKind::step) o["over_limit"] = to_json(f.over_limit());
    if (const Spread joules = f.joules(); joules.most > 0) o["joules_per_token"] = to_json(joules);
    return o;
}

json::object to_json(const BenchReport& r) {
    json::array prefill, decode, step;
    for (const BenchFigure& f : r.figures) (f.kind == BenchKind::prefill ? prefill : f.kind == BenchKind::decode ? decode : step).push_back(to_json(f));
    return {{"model", r.model.name},
            {"architecture", r.model.architecture},
            {"quantization", r.model.quantization},
            {"parameters", r.model.parameters},
            {"backend", r.model.backend},
            {"precision", name(r.precision)},
            {"kv_type", name(r.kv)},
            {"threads", r.threads},
            {"int8_loop", r.int8_loop},
            {"weight_bytes_per_token", r.weight_bytes},
            {"macs_per_token", r.weight_macs},
            {"kv_bytes_per_token_seen", r.kv_token_bytes},
            {"in_cache", r.in_cache},
            {"copied", r.copied},
            {"packed_bytes", r.model.weight_bytes},
            {"load_s", to_json(r.load_s)},
            {"peak_bytes", r.peak_bytes},
            {"energy", r.energy.empty() ? json::value(nullptr) : json::value(r.energy)},
            {"prefill", prefill},
            {"decode", decode},
            {"step", step},
            {"left_out", json::array(r.left_out.begin(), r.left_out.end())}};
}

void row(const std::string& key, const std::string& value) { std::cout << pad(key, 17) << one_line(value) << '\n'; }

/// "8.9 tok/s (8.7–9.1)"
std::string rate_text(const Spread& s) {
    const char* pattern = s.median < 100 ? "%.1f tok/s (%.1f–%.1f)" : "%.0f tok/s (%.0f–%.0f)";
    return format(pattern, s.median, s.least, s.most);
}

std::string memory_text(const Spread& bandwidth) { return format("%.1f GB/s", bandwidth.median / 1e9); }
std::string int8_text(const Spread& int8, const std::string& loop) { return format("%.0f GMAC/s, ", int8.median / 1e9) + loop; }

void print(const BenchReport& r) {
    row("model", r.model.name + ", " + r.model.architecture + ", " + short_count(double(r.model.parameters)) + " parameters, " + r.model.quantization);
    row("runs as", r.model.backend + ", keys and values in " + name(r.kv));
    row("a token reads", human_bytes(r.weight_bytes) + " of weights, and " + human_bytes(r.kv_token_bytes) + " for each token before it");
    row("ready after", format("%.2f s (%.2f–%.2f), packed weights in memory", r.load_s.median, r.load_s.least, r.load_s.most));
    row("memory", human_bytes(double(r.peak_bytes)) + " at most");
    for (const BenchFigure& f : r.figures) {
        const std::string size = std::to_string(f.size);
        switch (f.kind) {
        case BenchKind::prefill:
            row("prefill of " + size, rate_text(f.rate()) + format(": %.0f %% of what your processor gives (", 100 * f.int8_share().median) + int8_text(f.int8(), r.int8_loop) + ")");
            break;
        case BenchKind::decode:
            row("decode at " + size, rate_text(f.rate()) + format(": %.0f %% of what your memory gives (", 100 * f.bandwidth_share().median) + memory_text(f.bandwidth()) + ")");
            break;
        case BenchKind::step:
            row("batch of " + size, rate_text(f.rate()) + format(" in all: a step of %.1f ms takes %.2f times what memory and processor allow", 1e3 * f.seconds().median, f.over_limit().median));
            break;
        }
    }
    for (const BenchFigure& f : r.figures)
        if (f.kind == BenchKind::decode && f.joules().most > 0) row("energy at " + std::to_string(f.size), format("%.2f J per token (", f.joules().median) + r.energy + ")");
    if (r.copied) row("note", "the weights were copied into huge pages: as a mapped file they were slower to read");
    if (r.in_cache) row("note", "the weights may fit into the processor's cache, which gives more than memory does");
    if (r.energy.empty()) row("energy", "not readable here");
    for (const std::string& what : r.left_out) row("left out", what + ": longer than the model's context");
    std::cout.flush();
}

Exit print_limits(const Globals& globals, const CpuOptions& cpu, int repeat) {
    const Limits l = measure_limits(cpu, repeat);
    if (globals.json) {
        std::cout << json::serialize(json::object{{"threads", l.threads}, {"bandwidth", to_json(l.bandwidth)}, {"int8", to_json(l.int8)}, {"int8_loop", l.int8_loop}}) << '\n';
    } else {
        row("memory", memory_text(l.bandwidth) + format(" (%.1f–%.1f) read by %d threads", l.bandwidth.least / 1e9, l.bandwidth.most / 1e9, l.threads));
        row("processor", int8_text(l.int8, l.int8_loop) + format(" (%.0f–%.0f)", l.int8.least / 1e9, l.int8.most / 1e9));
    }
    return Exit::ok;
}

}  // namespace

Exit run_model_bench(const Globals& globals, const ModelOptions& options) {
    const Terminal terminal(globals.no_color);
    EngineOptions engine;
    engine.cpu = {options.threads, options.isa};
    if (options.limits) return print_limits(globals, engine.cpu, options.repeat);
    if (options.path.empty()) throw CliError(Exit::usage, "name a model file, or give --limits");
    const std::string file = model_file(options.path);
    std::error_code error;
    if (!fs::exists(file, error)) throw CliError(Exit::usage, file + ": there is no such file");
    engine.precision = precision_named(options.precision);  // empty: the default
    engine.kv = kv_type_named(options.kv);
    engine.cache_directory = options.cache.empty() ? cache_folder() : options.cache;

    ProgressBar packing(terminal, "packing");
    Spinner spinner(terminal);
    engine.on_pack = [&](std::size_t done, std::size_t total) { packing.update(double(done), double(total)); };
    BenchOptions bench{options.prompts, options.contexts, options.batches, options.tokens, options.repeat, {}};
    for (std::vector<int>* sizes : {&bench.prompts, &bench.contexts, &bench.batches}) std::erase(*sizes, 0);
    bench.on_progress = [&](const std::string& what) {
        packing.clear();
        if (interrupted()) throw CliError(Exit::interrupted, "interrupted");
        spinner.say(what);
        spinner.tick();
    };
    const BenchReport report = run_bench(file, engine, bench);
    spinner.clear();
    if (globals.json) std::cout << json::serialize(to_json(report)) << '\n';
    else print(report);
    return Exit::ok;
}

}  // namespace glmd
