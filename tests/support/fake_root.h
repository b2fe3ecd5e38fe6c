#pragma once
// A folder that looks like / of another machine, as far as what is read from it goes.
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/scratch.h"

namespace glmd {

struct FakeRoot : Scratch {
    void put(const std::string& file, const std::string& text) const {
        std::filesystem::create_directories((path / file).parent_path());
        std::ofstream(path / file, std::ios::binary) << text << '\n';
    }
    std::string root() const { return path.string(); }

    /// An AGX Orin with JetPack 6 in its 30 W mode, warm and slowed down.
    void make_orin() const {
        put("proc/device-tree/model", std::string("NVIDIA Jetson AGX Orin Developer Kit") + '\0');
        put("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64");
        put("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build");
        put("sys/class/thermal/thermal_zone0/type", "cpu-thermal");
        put("sys/class/thermal/thermal_zone0/temp", "48250");
        put("sys/class/thermal/thermal_zone1/type", "gpu-thermal");
        put("sys/class/thermal/thermal_zone1/temp", "-256000");  // asleep
        put("sys/class/thermal/thermal_zone2/type", "tj-thermal");
        put("sys/class/thermal/thermal_zone2/temp", "51500");
        put("sys/class/thermal/cooling_device0/type", "pwm-fan");
        put("sys/class/thermal/cooling_device0/cur_state", "3");
        put("sys/class/thermal/cooling_device1/type", "cpu-throttle-alert");
        put("sys/class/thermal/cooling_device1/cur_state", "0");
        put("sys/class/thermal/cooling_device2/type", "gpu-throttle-alert");
        put("sys/class/thermal/cooling_device2/cur_state", "1");
        put("sys/class/hwmon/hwmon3/name", "soctherm_oc");
        put("sys/class/hwmon/hwmon3/oc1_event_cnt", "2");
        put("sys/class/hwmon/hwmon3/oc3_event_cnt", "5");
        put("sys/class/hwmon/hwmon3/oc3_throt_en", "1");
        put("sys/class/devfreq/15340000.vic/cur_freq", "115200000");
        put("sys/class/devfreq/17000000.gpu/cur_freq", "306000000");
        put("sys/class/devfreq/17000000.gpu/max_freq", "624750000");
        put("etc/nvpmodel.conf", "# comment\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MODE_30W >\n"
                                 "< PM_CONFIG DEFAULT=2 >");
        put("var/lib/nvpmodel/status", "pmode:0002");
    }
};

}  // namespace glmd
