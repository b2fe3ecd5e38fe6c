#include "daemon/metrics.h"

#include <algorithm>
#include <cstdio>

namespace glmd {

void Histogram::observe(double seconds) {
    const auto at = std::lower_bound(bounds.begin(), bounds.end(), seconds) - bounds.begin();
    buckets_[static_cast<std::size_t>(at)].fetch_add(1, std::memory_order_relaxed);
    sum_ns_.fetch_add(static_cast<std::uint64_t>(std::max(seconds, 0.0) * 1e9), std::memory_order_relaxed);
}

void Metrics::stepped(const StepReport& step) {
    Histogram& histogram = step.prompt_rows == 0 ? decode_step : step.decode_rows == 0 ? prefill_step : mixed_step;
    histogram.observe(step.seconds);
}

void Metrics::answered(std::string_view endpoint, int status, double seconds) {
    auto at = requests.find(endpoint);
    if (at == requests.end()) at = requests.try_emplace(std::string(endpoint)).first;
    ++at->second.by_status[status];
    at->second.seconds.observe(seconds);
}

void MetricsText::family(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    text_.append("# HELP ").append(name).append(" ").append(help).append("\n# TYPE ").append(name).append(" ").append(type).append("\n");
}

void MetricsText::histogram(Labels labels, const Histogram& histogram) {
    std::uint64_t count = 0;
    for (std::size_t i = 0; i <= Histogram::bounds.size(); ++i) {
        count += histogram.bucket(i);
        char bound[24] = "+Inf";
        if (i < Histogram::bounds.size()) std::snprintf(bound, sizeof bound, "%g", Histogram::bounds[i]);
        line("_bucket", labels, bound, static_cast<double>(count));
    }
    line("_sum", labels, {}, histogram.sum());
    line("_count", labels, {}, static_cast<double>(count));
}

void MetricsText::line(std::string_view suffix, Labels labels, std::string_view bound, double value) {
    text_.append(name_).append(suffix);
    char before = '{';
    auto add = [&](std::string_view name, std::string_view label) {
        text_.append(1, before).append(name).append("=\"");
        before = ',';
        for (const char c : label) {
            if (c == '\n') text_ += "\\n";
            else if (c == '"' || c == '\\') text_.append(1, '\\').append(1, c);
            else text_ += c;
        }
        text_ += '"';
    };
    for (const auto& [name, label] : labels) add(name, label);
    if (!bound.empty()) add("le", bound);
    if (before == ',') text_ += '}';
    char number[32];
    std::snprintf(number, sizeof number, " %.15g\n", value);
    text_ += number;
}

}  // namespace glmd
