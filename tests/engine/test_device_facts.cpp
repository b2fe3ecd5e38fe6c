#include <catch2/catch.hpp>

#include "engine/device_facts.h"
#include "tests/support/fake_root.h"

using namespace glmd;

TEST_CASE("device facts: a machine that says nothing") {
    const FakeRoot s;
    const DeviceFacts f = device_facts(s.root());
    CHECK(f.board.empty());
    CHECK(f.temperatures.empty());
    CHECK(!f.throttled);
    CHECK(!f.thermal_events);
    CHECK(!f.over_current_events);
    CHECK(!f.gpu);
    CHECK(!f.power_mode);
}

TEST_CASE("device facts: a Jetson") {
    const FakeRoot s;
    s.make_orin();
    const DeviceFacts f = device_facts(s.root());
    CHECK(f.board == "NVIDIA Jetson AGX Orin Developer Kit");
    CHECK(f.jetson_linux == "R36 (release), REVISION: 4.3");
    REQUIRE(f.temperatures.size() == 2);  // the sleeping GPU says nothing
    CHECK(f.temperatures[0].sensor == "cpu-thermal");
    CHECK(f.temperatures[0].celsius == Approx(48.25));
    CHECK(f.temperatures[1].celsius == Approx(51.5));
    CHECK(f.throttled == true);
    CHECK(f.throttled_by == std::vector<std::string>{"gpu-throttle-alert"});
    CHECK(f.over_current_events == 7);
    CHECK(!f.thermal_events);
    REQUIRE(f.gpu);
    CHECK(f.gpu->integrated);
    CHECK(f.gpu->name == f.board);
    CHECK(f.gpu->driver == "540.4.0");
    CHECK(f.gpu->clock_hz == 306e6);
    CHECK(f.gpu->max_clock_hz == 624.75e6);
    REQUIRE(f.power_mode);
    CHECK(f.power_mode->id == 2);
    CHECK(f.power_mode->name == "MODE_30W");
    CHECK(f.power_modes.size() == 2);

    s.put("sys/class/thermal/cooling_device2/cur_state", "0");
    CHECK(device_facts(s.root()).throttled == false);
}

TEST_CASE("device facts: Thor's GPU") {
    const FakeRoot s;
    s.put("proc/device-tree/model", "NVIDIA Jetson AGX Thor Developer Kit");
    s.put("sys/class/devfreq/gpu-gpc-0/cur_freq", "1575000000");
    s.put("sys/class/devfreq/gpu-nvd-0/cur_freq", "1");
    const DeviceFacts f = device_facts(s.root());
    REQUIRE(f.gpu);
    CHECK(f.gpu->integrated);
    CHECK(f.gpu->clock_hz == 1575e6);
    CHECK(!f.gpu->max_clock_hz);
}

TEST_CASE("device facts: a PC with a card") {
    const FakeRoot s;
    s.put("sys/class/thermal/thermal_zone0/type", "x86_pkg_temp");
    s.put("sys/class/thermal/thermal_zone0/temp", "63000");
    s.put("sys/class/hwmon/hwmon1/name", "k10temp");
    s.put("sys/class/hwmon/hwmon1/temp1_input", "61000");
    s.put("sys/class/hwmon/hwmon2/name", "nvme");
    s.put("sys/class/hwmon/hwmon2/temp1_input", "40000");
    s.put("sys/class/thermal/cooling_device0/type", "Processor");
    s.put("sys/class/thermal/cooling_device0/cur_state", "0");
    s.put("sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", "12");
    s.put("sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", "12");
    s.put("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024");
    s.put("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA GeForce RTX 2080 Ti\nIRQ:   \t\t 146");
    const DeviceFacts f = device_facts(s.root());
    REQUIRE(f.temperatures.size() == 2);
    CHECK(f.temperatures[1].sensor == "k10temp");
    CHECK(f.throttled == false);
    CHECK(f.thermal_events == 12);
    REQUIRE(f.gpu);
    CHECK(f.gpu->name == "NVIDIA GeForce RTX 2080 Ti");
    CHECK(f.gpu->driver == "550.54.14");
    CHECK(!f.gpu->integrated);
}
