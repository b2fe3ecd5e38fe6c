#include "daemon/energy_account.h"

namespace glmd {

EnergyAccount::EnergyAccount(std::string sys) : sys_(std::move(sys)), source_(EnergyMeter(sys_).source()) {
    sum_.source = published_.source = source_;
}

void EnergyAccount::begin(std::uint64_t tokens, Time now) {
    if (meter_ || source_.empty()) return;
    meter_.emplace(sys_);
    seen_ = now;
    seen_tokens_ = tokens;
    seen_joules_ = 0;
}

void EnergyAccount::end(std::uint64_t tokens, Time now) {
    if (meter_) look(tokens, now);
    meter_.reset();
}

void EnergyAccount::look(std::uint64_t tokens, Time now) {
    const double joules = meter_->joules();
    sum_.joules += joules - seen_joules_;
    sum_.tokens += tokens - (tokens < seen_tokens_ ? 0 : seen_tokens_);
    busy_s_ += std::chrono::duration<double>(now - seen_).count();
    seen_ = now;
    seen_joules_ = joules;
    seen_tokens_ = tokens;
    if (now - published_at_ < std::chrono::seconds(1)) return;
    sum_.watts = busy_s_ > published_busy_s_ ? (sum_.joules - published_.joules) / (busy_s_ - published_busy_s_) : 0;
    published_ = sum_;
    published_busy_s_ = busy_s_;
    published_at_ = now;
}

std::optional<EnergyAccount::Report> EnergyAccount::report(std::uint64_t tokens, Time now) {
    if (source_.empty()) return {};
    if (meter_) look(tokens, now);
    return published_;
}

}  // namespace glmd
