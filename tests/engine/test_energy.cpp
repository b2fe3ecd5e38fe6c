// Counters and sensors in a folder that looks like /sys.
#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>
#include <thread>

#include "engine/energy.h"
#include "tests/scratch.h"

using namespace glmd;
namespace fs = std::filesystem;

namespace {

void put(const Scratch& s, const std::string& file, const std::string& value) {
    fs::create_directories((s.path / file).parent_path());
    std::ofstream(s.path / file) << value << '\n';
}

}  // namespace

TEST_CASE("energy: nothing to read") {
    const Scratch s;
    EnergyMeter meter(s.path);
    CHECK(meter.source().empty());
    CHECK(meter.joules() == 0);
}

TEST_CASE("energy: packages and their memory are counted, parts of a package aren't") {
    const Scratch s;
    const auto zone = [&](const std::string& folder, const char* name, const char* value) {
        put(s, "class/powercap/" + folder + "/name", name);
        put(s, "class/powercap/" + folder + "/energy_uj", value);
        put(s, "class/powercap/" + folder + "/max_energy_range_uj", "100000000");
    };
    zone("intel-rapl:0", "package-0", "90000000");
    zone("intel-rapl:0:0", "core", "5");
    zone("intel-rapl:0:1", "dram", "1000000");
    zone("intel-rapl:1", "psys", "7");
    zone("intel-rapl-mmio:0", "package-0", "90000000");
    EnergyMeter meter(s.path);
    CHECK(meter.source() == "RAPL");
    CHECK(meter.joules() == 0);
    zone("intel-rapl:0", "package-0", "5000000");  // wrapped
    zone("intel-rapl:0:0", "core", "60000000");
    zone("intel-rapl:0:1", "dram", "3000000");
    CHECK(meter.joules() == Approx(15 + 2));
    CHECK(meter.joules() == Approx(15 + 2));
}

TEST_CASE("energy: a Jetson's input") {
    const Scratch s;
    const auto channel = [&](const std::string& n, const char* label, const char* volts, const char* amperes) {
        put(s, "class/hwmon/hwmon3/in" + n + "_label", label);
        put(s, "class/hwmon/hwmon3/in" + n + "_input", volts);
        put(s, "class/hwmon/hwmon3/curr" + n + "_input", amperes);
    };
    put(s, "class/hwmon/hwmon0/name", "thermal");
    put(s, "class/hwmon/hwmon3/name", "ina3221");
    channel("1", "VDD_IN", "5000", "2000");
    channel("2", "VDD_CPU_GPU_CV", "5000", "1000");
    EnergyMeter meter(s.path);
    CHECK(meter.source() == "INA3221");
    const auto begin = std::chrono::steady_clock::now();
    std::this_thread::sleep_for(std::chrono::milliseconds(120));
    const double joules = meter.joules(), seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    CHECK(joules > 1.1);  // 10 W
    CHECK(joules <= 10.5 * seconds + 0.1);
}
