#pragma once
// What answers cost: the machine's energy while generations run. Nothing is read, and no thread runs, while there are none.
// One thread at a time.
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "engine/energy.h"

namespace glmd {

class EnergyAccount {
public:
    using Time = std::chrono::steady_clock::time_point;
    explicit EnergyAccount(std::string sys = "/sys");

    // `tokens`: all that the engine has answered so far (it starts again at 0 when a model is loaded).
    void begin(std::uint64_t tokens, Time now);  // nothing if it has begun already
    void end(std::uint64_t tokens, Time now);

    struct Report {
        std::string source;
        double joules = 0;         // since the start, prompts included
        std::uint64_t tokens = 0;  // answered for them
        double watts = 0;          // between the two latest reports; 0: none yet
    };
    /// Nothing where energy can't be read. It changes once a second at most: finer readings tell what other programs compute.
    std::optional<Report> report(std::uint64_t tokens, Time now);

private:
    void look(std::uint64_t tokens, Time now);

    std::string sys_, source_;
    std::optional<EnergyMeter> meter_;  // while generations run
    Time seen_, published_at_;
    std::uint64_t seen_tokens_ = 0;
    double seen_joules_ = 0;
    Report sum_, published_;
    double busy_s_ = 0, published_busy_s_ = 0;
};

}  // namespace glmd
