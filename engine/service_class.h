#pragma once
#include <cstdint>

namespace glmd {

/// In the API: priority, default, flex.
enum class ServiceClass : std::uint8_t { priority, normal, flex };
inline constexpr int service_classes = 3;
constexpr int index(ServiceClass c) { return static_cast<int>(c); }

}  // namespace glmd
