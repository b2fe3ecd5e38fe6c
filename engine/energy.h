#pragma once
// Energy that the machine has used, where it says so: the counters of Intel's and AMD's processors (RAPL: packages and their
// memory), or the sensor behind a Jetson's input (INA3221). Most systems let only root read the former.
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace glmd {

class EnergyMeter {
public:
    explicit EnergyMeter(std::string sys = "/sys");
    ~EnergyMeter();
    EnergyMeter(const EnergyMeter&) = delete;
    EnergyMeter& operator=(const EnergyMeter&) = delete;

    /// "RAPL", "INA3221"; empty where nothing can be read.
    const std::string& source() const { return source_; }
    /// Since the meter was made. Counters wrap after some minutes at full power: ask more often.
    double joules();

private:
    struct Counter {
        std::string file;
        double range, last;  // µJ
    };
    struct Sensor {
        std::string volts, amperes;  // files: mV, mA
    };
    void find_counters(const std::string& folder);
    void find_sensors(const std::string& folder);
    double watts() const;
    void sample();

    std::string source_;
    std::vector<Counter> counters_;
    std::vector<Sensor> sensors_;
    // A sensor tells power, which a thread adds up.
    std::mutex mutex_;
    std::condition_variable wake_;
    bool stop_ = false;
    double joules_ = 0, last_watts_ = 0, last_s_ = 0;
    std::thread sampler_;
};

}  // namespace glmd
