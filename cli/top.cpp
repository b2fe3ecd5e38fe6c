// Rates and quantiles are of the time between two scrapes of /metrics: the daemon only counts. A quantile is interpolated
// within its bucket, as Prometheus does it.
#include <CLI/CLI.hpp>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <optional>
#include <thread>

#include "cli/app.h"
#include "cli/client.h"
#include "cli/terminal.h"

namespace glmd {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::array<const char*, 3> tiers{"priority", "default", "flex"};

struct TopOptions {
    double interval_s = 2;
    bool once = false;
};

/// One scrape: values by name and labels, as they are written.
class Scrape {
public:
    explicit Scrape(const std::string& text) {
        for (std::size_t at = 0; at < text.size();) {
            const std::size_t end = std::min(text.find('\n', at), text.size()), space = text.rfind(' ', end);
            if (text[at] != '#' && space != std::string::npos && space > at)
                values_[text.substr(at, space - at)] = std::strtod(text.c_str() + space + 1, nullptr);
            at = end + 1;
        }
    }
    double operator[](const std::string& series) const {
        const auto at = values_.find(series);
        return at == values_.end() ? 0 : at->second;
    }
    /// Of all series of that name.
    double sum(const std::string& name) const {
        double all = 0;
        for (auto at = values_.lower_bound(name); at != values_.end() && at->first.starts_with(name); ++at)
            if (const char next = at->first.c_str()[name.size()]; next == 0 || next == '{') all += at->second;
        return all;
    }
    /// What was observed since `before` by histograms of that name with these labels ("" for all): count by upper bound.
    std::map<double, double> since(const Scrape& before, const std::string& name, const std::string& labels) const {
        std::map<double, double> counts;
        const std::string start = name + "_bucket{" + labels;
        for (auto at = values_.lower_bound(start); at != values_.end() && at->first.starts_with(start); ++at) {
            const std::size_t bound = at->first.find("le=\"");
            if (bound != std::string::npos) counts[std::strtod(at->first.c_str() + bound + 4, nullptr)] += at->second - before[at->first];
        }
        return counts;
    }

private:
    std::map<std::string, double> values_;
};

/// Nothing where nothing was observed.
std::optional<double> quantile(const std::map<double, double>& counts, double q) {
    if (counts.empty() || counts.rbegin()->second <= 0) return std::nullopt;
    const double rank = q * counts.rbegin()->second;
    double low = 0, before = 0;
    for (const auto& [bound, count] : counts) {
        if (count >= rank && count > before) return std::isinf(bound) ? low : low + (bound - low) * (rank - before) / (count - before);
        low = bound;
        before = count;
    }
    return low;
}

json::value number_or_null(std::optional<double> number) { return number ? json::value(*number) : json::value(nullptr); }

/// Everything that is shown, and what --json prints.
json::object frame(const Scrape& now, const Scrape& before, double seconds, const json::object& status) {
    const auto rate = [&](double a, double b) { return std::max(0.0, (a - b) / seconds); };
    const auto rate_of = [&](const std::string& name) { return rate(now.sum(name), before.sum(name)); };
    json::object f;
    f["object"] = "glm.top";
    for (const char* key : {"version", "uptime_s", "model", "sessions", "energy"})
        if (const json::value* value = status.if_contains(key)) f[key] = *value;
    f["seconds"] = seconds;
    f["connections"] = now["glmd_connections"];
    f["requests_per_s"] = rate_of("glmd_requests_total");
    f["refusals_per_s"] = rate_of("glmd_refusals_total");
    f["completion_tokens_per_s"] = rate_of("glmd_completion_tokens_total");
    f["prompt_tokens_per_s"] = rate_of("glmd_prompt_tokens_total");
    f["cached_prompt_tokens_per_s"] = rate_of("glmd_cached_prompt_tokens_total");
    json::object classes;
    for (const std::string tier : tiers) {
        const std::string label = "class=\"" + tier + "\"", of = "{" + label + "}";
        json::object c;
        c["running"] = now["glmd_running_sequences" + of];
        c["queued"] = now["glmd_queued_sequences" + of];
        c["completion_tokens_per_s"] = rate(now["glmd_completion_tokens_total" + of], before["glmd_completion_tokens_total" + of]);
        const auto first = now.since(before, "glmd_time_to_first_token_seconds", label), between = now.since(before, "glmd_inter_token_seconds", label);
        c["first_token_p50_s"] = number_or_null(quantile(first, 0.5));
        c["first_token_p99_s"] = number_or_null(quantile(first, 0.99));
        c["inter_token_p50_s"] = number_or_null(quantile(between, 0.5));
        c["inter_token_p99_s"] = number_or_null(quantile(between, 0.99));
        classes[tier] = std::move(c);
    }
    f["classes"] = std::move(classes);
    json::object kv;
    for (const char* state : {"used", "cached", "free"}) kv[std::string(state) + "_blocks"] = now["glmd_kv_blocks{state=\"" + std::string(state) + "\"}"];
    f["kv"] = std::move(kv);
    f["resident_bytes"] = now["process_resident_memory_bytes"];
    f["cpus"] = rate_of("process_cpu_seconds_total");
    f["storage_p99_s"] = number_or_null(quantile(now.since(before, "glmd_storage_seconds", ""), 0.99));
    return f;
}

std::string short_time(const json::value& seconds) {
    if (!seconds.is_number()) return "-";
    const double s = seconds.to_number<double>();
    char text[32];
    if (s < 0.01) std::snprintf(text, sizeof text, "%.2f ms", 1000 * s);
    else if (s < 1) std::snprintf(text, sizeof text, "%.0f ms", 1000 * s);
    else std::snprintf(text, sizeof text, "%.1f s", s);
    return text;
}

std::string left(const std::string& text, int columns) {
    const int width = display_width(text);
    return std::string(static_cast<std::size_t>(std::max(0, columns - width)), ' ') + text;
}

void print(const json::object& f, const Terminal& terminal) {
    const auto number = [](const json::object& o, const char* key, const char* format = "%.0f") {
        const json::value* value = o.if_contains(key);
        char text[40];
        std::snprintf(text, sizeof text, format, value && value->is_number() ? value->to_number<double>() : 0.0);
        return std::string(text);
    };
    const auto line = [&](const char* title, const std::string& text) { std::cout << pad(title, 10) << fit(text, terminal.columns() - 10) << '\n'; };
    const json::object none;
    const json::object *found = object_of(f, "model"), &model = found ? *found : none;
    std::cout << terminal.paint(fit("glmd " + text_of(f, "version") + ", up " + human_seconds(std::strtod(number(f, "uptime_s").c_str(), nullptr)) +
                                        ", " + text_of(model, "id", "no model") + ", " + text_of(model, "backend", text_of(model, "state")),
                                    terminal.columns()),
                                Style::bold)
              << "\n\n";
    line("tokens/s", number(f, "completion_tokens_per_s", "%.1f") + " of answers, " + number(f, "prompt_tokens_per_s", "%.1f") + " of prompts, " +
                         number(f, "cached_prompt_tokens_per_s", "%.1f") + " of these from the cache");
    line("requests", number(f, "requests_per_s", "%.1f") + "/s, " + number(f, "refusals_per_s", "%.1f") + "/s refused, " +
                         number(f, "connections") + " connections; storage p99 " + short_time(f.at("storage_p99_s")));
    const json::object& kv = f.at("kv").as_object();
    const double used = kv.at("used_blocks").to_number<double>(), cached = kv.at("cached_blocks").to_number<double>();
    const double blocks = std::max(1.0, used + cached + kv.at("free_blocks").to_number<double>());
    char text[96];
    std::snprintf(text, sizeof text, "%.0f %% used, %.0f %% kept for reuse, of ", 100 * used / blocks, 100 * cached / blocks);
    line("KV cache", text + human_bytes(static_cast<double>(number_of(model, "kv_bytes"))));
    line("memory", human_bytes(static_cast<double>(number_of(f, "resident_bytes"))) + " resident, weights " +
                       human_bytes(static_cast<double>(number_of(model, "weight_bytes"))) + "; processors " + number(f, "cpus", "%.1f"));
    if (const json::object* sessions = object_of(f, "sessions"))
        line("sessions", number(*sessions, "conversations") + ", " + number(*sessions, "responses") + " responses, " +
                             human_bytes(static_cast<double>(number_of(*sessions, "bytes"))));
    if (const json::object* energy = object_of(f, "energy")) line("energy", number(*energy, "watts", "%.1f") + " W while answering");
    std::cout << '\n'
              << terminal.paint(pad("CLASS", 10) + left("RUNNING", 8) + left("QUEUED", 8) + left("TOKENS/S", 10) + left("FIRST P50", 11) +
                                    left("P99", 9) + left("NEXT P50", 11) + left("P99", 9),
                                Style::bold)
              << '\n';
    for (const char* tier : tiers) {
        const json::object& c = f.at("classes").as_object().at(tier).as_object();
        std::cout << pad(tier, 10) << left(number(c, "running"), 8) << left(number(c, "queued"), 8) << left(number(c, "completion_tokens_per_s", "%.1f"), 10)
                  << left(short_time(c.at("first_token_p50_s")), 11) << left(short_time(c.at("first_token_p99_s")), 9)
                  << left(short_time(c.at("inter_token_p50_s")), 11) << left(short_time(c.at("inter_token_p99_s")), 9) << '\n';
    }
}

/// False when interrupted.
bool sleep_until(Clock::time_point until) {
    while (Clock::now() < until) {
        if (interrupted()) return false;
        std::this_thread::sleep_for(std::min<Clock::duration>(until - Clock::now(), std::chrono::milliseconds(50)));
    }
    return !interrupted();
}

Exit run_top(const Globals& globals, const TopOptions& options) {
    const Terminal terminal(globals.no_color);
    Client client(globals.socket);
    const bool live = terminal.out_is_terminal() && !globals.json && !options.once;
    const bool once = options.once || (!live && !globals.json);
    auto taken = Clock::now();
    Scrape before(client.text("/metrics"));
    while (sleep_until(taken + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.interval_s)))) {
        const auto now = Clock::now();
        Scrape scrape(client.text("/metrics"));
        const json::object f = frame(scrape, before, std::chrono::duration<double>(now - taken).count(), as_object(client.get("/v1/glm/status")));
        if (live) std::cout << "\x1b[H\x1b[J";
        if (globals.json) std::cout << json::serialize(f) << '\n';
        else print(f, terminal);
        std::cout.flush();
        if (once || !std::cout) break;
        before = std::move(scrape);
        taken = now;
    }
    return interrupted() && once ? Exit::interrupted : Exit::ok;
}

}  // namespace

void add_top(CLI::App& app, Globals& globals, Action& action) {
    auto options = std::make_shared<TopOptions>();
    CLI::App* sub = app.add_subcommand("top", "the daemon at work: throughput, queue, latency, memory; Ctrl-C ends it");
    sub->add_option("-n,--interval", options->interval_s, "seconds between refreshes")->check(CLI::Range(0.1, 3600.0))->capture_default_str();
    sub->add_flag("--once", options->once, "one interval only (as without a terminal)");
    sub->footer(
        "Examples:\n"
        "  glm top\n"
        "  glm top --once -n 10\n"
        "  glm top --json | jq .completion_tokens_per_s");
    sub->callback([&globals, &action, options] { action = [&globals, options] { return run_top(globals, *options); }; });
}

}  // namespace glmd
