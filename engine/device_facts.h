#pragma once
// What the system says about the machine that models run on: temperatures, throttling, and a GPU's driver, clock and power mode.
// Everything is read from /sys, /proc and /etc; a discrete GPU's own memory and temperature are known to its driver only.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace glmd {

struct Temperature {
    std::string sensor;  // "gpu-thermal", "x86_pkg_temp", "k10temp"
    double celsius;
};

struct PowerMode {  // of a Jetson (nvpmodel)
    int id;
    std::string name;  // "MAXN"; empty: not in its configuration
};

struct GpuFacts {
    std::string name;    // "NVIDIA GeForce RTX 2080 Ti"; a Jetson's is its board's
    std::string driver;  // version; empty where it can't be read
    bool integrated = false;  // a Jetson's, which shares the machine's memory
    std::optional<double> clock_hz, max_clock_hz;  // now, and what the power mode allows
};

struct DeviceFacts {
    std::string board;        // "NVIDIA Jetson AGX Orin Developer Kit"; empty where there is no device tree
    std::string jetson_linux; // "R36 (release), REVISION: 4.3"; empty elsewhere
    std::vector<Temperature> temperatures;
    std::optional<bool> throttled;           // slowed down now; nothing where the system doesn't say
    std::vector<std::string> throttled_by;   // "cpu-throttle-alert"
    std::optional<std::int64_t> thermal_events, over_current_events;  // since the machine's start
    std::optional<GpuFacts> gpu;             // NVIDIA's, the first one
    std::optional<PowerMode> power_mode;
    std::vector<PowerMode> power_modes;      // that there are to choose from
};

/// Takes some milliseconds where sensors are slow. `root` holds sys, proc and etc.
DeviceFacts device_facts(const std::string& root = "");

}  // namespace glmd
