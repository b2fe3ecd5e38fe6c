#pragma once
// Whether a model's layers stay in memory or are read from disk again for every pass over them.
#include <cstdint>
#include <optional>
#include <string_view>

namespace glmd {

/// automatic: resident where the memory plan fits, else stream.
enum class WeightsMode : std::uint8_t { automatic, resident, stream };
constexpr const char* name(WeightsMode m) {
    return m == WeightsMode::automatic ? "auto" : m == WeightsMode::resident ? "resident" : "stream";
}
/// Nothing for any other name.
constexpr std::optional<WeightsMode> weights_mode_named(std::string_view text) {
    for (const WeightsMode m : {WeightsMode::automatic, WeightsMode::resident, WeightsMode::stream})
        if (text == name(m)) return m;
    return {};
}

}  // namespace glmd
