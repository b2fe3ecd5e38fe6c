#include "engine/energy.h"

#include <chrono>

#include "engine/sysfs.h"

namespace glmd {
namespace {

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

EnergyMeter::EnergyMeter(std::string sys) {
    find_counters(sys + "/class/powercap");
    if (counters_.empty()) find_sensors(sys + "/class/hwmon");
    source_ = !counters_.empty() ? "RAPL" : !sensors_.empty() ? "INA3221" : "";
    if (sensors_.empty()) return;
    last_watts_ = watts();
    last_s_ = now_s();
    sampler_ = std::thread([this] {
        std::unique_lock lock(mutex_);
        while (!wake_.wait_for(lock, std::chrono::milliseconds(50), [this] { return stop_; })) sample();
    });
}

EnergyMeter::~EnergyMeter() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    if (sampler_.joinable()) sampler_.join();
}

/// A package's counter holds its cores', and not its memory's.
void EnergyMeter::find_counters(const std::string& folder) {
    for (const std::string& zone : entries(folder, "intel-rapl:")) {
        const std::string name = read_value<std::string>(zone + "/name").value_or("");
        const auto value = read_value<double>(zone + "/energy_uj");
        if (value && (name.starts_with("package") || name == "dram"))
            counters_.push_back({zone + "/energy_uj", read_value<double>(zone + "/max_energy_range_uj").value_or(0), *value});
    }
}

/// VDD_IN is the whole board's where there is one; the three rails of a larger board add up to it.
void EnergyMeter::find_sensors(const std::string& folder) {
    for (const std::string& chip : entries(folder, "hwmon")) {
        if (read_value<std::string>(chip + "/name") != "ina3221") continue;
        for (const char* channel : {"1", "2", "3"}) {
            const Sensor sensor{chip + "/in" + channel + "_input", chip + "/curr" + channel + "_input"};
            if (!read_value<double>(sensor.volts) || !read_value<double>(sensor.amperes)) continue;
            if (read_value<std::string>(chip + "/in" + channel + "_label") == "VDD_IN") {
                sensors_ = {sensor};
                return;
            }
            sensors_.push_back(sensor);
        }
    }
}

double EnergyMeter::watts() const {
    double sum = 0;
    for (const Sensor& s : sensors_) sum += read_value<double>(s.volts).value_or(0) * read_value<double>(s.amperes).value_or(0) * 1e-6;
    return sum;
}

/// Under the mutex.
void EnergyMeter::sample() {
    const double w = watts(), at = now_s();
    joules_ += 0.5 * (last_watts_ + w) * (at - last_s_);
    last_watts_ = w;
    last_s_ = at;
}

double EnergyMeter::joules() {
    std::lock_guard lock(mutex_);
    if (!sensors_.empty()) sample();
    for (Counter& c : counters_) {
        const double value = read_value<double>(c.file).value_or(c.last);
        joules_ += 1e-6 * (value >= c.last ? value - c.last : value - c.last + c.range);
        c.last = value;
    }
    return joules_;
}

}  // namespace glmd
