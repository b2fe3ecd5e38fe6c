#pragma once
// On which device a model runs.
#include <cstdint>
#include <optional>
#include <string_view>

namespace glmd {

/// automatic: a CUDA GPU where there is one and the model fits, else the CPU.
enum class BackendKind : std::uint8_t { automatic, cpu, cuda };
constexpr const char* name(BackendKind k) { return k == BackendKind::automatic ? "auto" : k == BackendKind::cpu ? "cpu" : "cuda"; }
/// Nothing for any other name.
constexpr std::optional<BackendKind> backend_kind_named(std::string_view text) {
    for (const BackendKind k : {BackendKind::automatic, BackendKind::cpu, BackendKind::cuda})
        if (text == name(k)) return k;
    return {};
}

}  // namespace glmd
