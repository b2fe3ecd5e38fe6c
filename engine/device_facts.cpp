// Names as Jetson Linux 35 to 38 and desktop kernels have them.
#include "engine/device_facts.h"

#include <sstream>

#include "engine/sysfs.h"

namespace glmd {
namespace {

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

std::vector<Temperature> temperatures(const std::string& sys) {
    std::vector<Temperature> found;
    const auto add = [&](const std::string& name, const std::string& file) {
        // A sleeping GPU's sensor can't be read, or says something impossible.
        if (const auto milli = read_value<double>(file); milli && *milli > -50e3 && *milli < 200e3) found.push_back({name, *milli / 1000});
    };
    for (const std::string& zone : entries(sys + "/class/thermal", "thermal_zone")) add(read_line_of(zone + "/type"), zone + "/temp");
    for (const std::string& chip : entries(sys + "/class/hwmon", "hwmon"))  // AMD's processors have no zone
        if (const std::string name = read_line_of(chip + "/name"); name == "k10temp") add(name, chip + "/temp1_input");
    return found;
}

/// Cooling devices are fans, which throttle nothing, and what slows something down.
void throttling(const std::string& sys, DeviceFacts& facts) {
    for (const std::string& device : entries(sys + "/class/thermal", "cooling_device")) {
        const std::string type = read_line_of(device + "/type");
        const auto state = read_value<int>(device + "/cur_state");
        if (!state || !(contains(type, "alert") || contains(type, "cpufreq") || contains(type, "devfreq") || type == "Processor")) continue;
        if (*state > 0) facts.throttled_by.push_back(type);
        facts.throttled = !facts.throttled_by.empty();
    }
    for (const std::string& cpu : entries(sys + "/devices/system/cpu", "cpu"))
        if (const auto count = read_value<std::int64_t>(cpu + "/thermal_throttle/package_throttle_count"))
            facts.thermal_events = std::max(facts.thermal_events.value_or(0), *count);
    for (const std::string& chip : entries(sys + "/class/hwmon", "hwmon"))
        for (const std::string& file : entries(chip, "oc"))
            if (const auto count = read_value<std::int64_t>(file); count && file.ends_with("_event_cnt"))
                facts.over_current_events = facts.over_current_events.value_or(0) + *count;
}

/// "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 …", "… Open Kernel Module for aarch64  540.4.0  …"
std::string driver_version(const std::string& file) {
    std::istringstream words(read_line_of(file));
    for (std::string word; words >> word;)
        if (contains(word, ".") && word.find_first_not_of("0123456789.") == word.npos) return word;
    return {};
}

std::optional<GpuFacts> gpu(const std::string& root, const DeviceFacts& facts) {
    GpuFacts g;
    g.driver = driver_version(root + "/proc/driver/nvidia/version");
    // Orin's GPU is 17000000.gpu, or .ga10b with JetPack 5; Thor's is gpu-gpc-0.
    for (const std::string& folder : entries(root + "/sys/class/devfreq")) {
        const std::string name = folder.substr(folder.rfind('/') + 1);
        if (!name.starts_with("17000000.") && !name.starts_with("gpu-gpc-")) continue;
        g.integrated = true;
        g.name = facts.board;
        g.clock_hz = read_value<double>(folder + "/cur_freq");
        g.max_clock_hz = read_value<double>(folder + "/max_freq");
        return g;
    }
    for (const std::string& folder : entries(root + "/proc/driver/nvidia/gpus")) {
        std::ifstream in(folder + "/information");
        for (std::string line; std::getline(in, line);)
            if (line.starts_with("Model:")) {
                g.name = line.substr(std::min(line.find_first_not_of(" \t", 6), line.size()));
                return g;
            }
    }
    return {};
}

/// "< POWER_MODEL ID=0 NAME=MAXN >" in nvpmodel's configuration, "pmode:0000" in its state.
void power_modes(const std::string& root, DeviceFacts& facts) {
    std::ifstream in(root + "/etc/nvpmodel.conf");
    for (std::string line; std::getline(in, line);) {
        std::istringstream words(line);
        std::string bracket, what, id, name;
        if (words >> bracket >> what >> id >> name && what == "POWER_MODEL" && id.starts_with("ID=") && name.starts_with("NAME="))
            facts.power_modes.push_back({std::atoi(id.c_str() + 3), name.substr(5)});
    }
    const std::string state = read_line_of(root + "/var/lib/nvpmodel/status");
    if (!state.starts_with("pmode:")) return;
    facts.power_mode = {std::atoi(state.c_str() + 6), ""};
    for (const PowerMode& m : facts.power_modes)
        if (m.id == facts.power_mode->id) facts.power_mode = m;
}

}  // namespace

DeviceFacts device_facts(const std::string& root) {
    DeviceFacts facts;
    facts.board = read_line_of(root + "/proc/device-tree/model");
    facts.jetson_linux = read_line_of(root + "/etc/nv_tegra_release");
    if (facts.jetson_linux.starts_with("# ")) facts.jetson_linux.erase(0, 2);
    if (const auto end = facts.jetson_linux.find(", GCID"); end != std::string::npos) facts.jetson_linux.resize(end);
    facts.temperatures = temperatures(root + "/sys");
    throttling(root + "/sys", facts);
    facts.gpu = gpu(root, facts);
    power_modes(root, facts);
    return facts;
}

}  // namespace glmd
