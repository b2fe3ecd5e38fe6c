#pragma once
#include <compare>
#include <cstdint>
#include <string>
#include <utility>

namespace glmd {

/// Whose quota a request counts against: a user's of the main socket; a tenant's, whoever its users are (in containers all look
/// like uid 0).
struct Account {
    Account(std::uint32_t user, std::string name = {}) : uid(name.empty() ? user : 0), tenant(std::move(name)) {}
    std::uint32_t uid;
    std::string tenant;
    auto operator<=>(const Account&) const = default;
};

/// Of one account; 0: what the engine's options say.
struct Quota {
    int queue = 0;          // requests that may wait
    int queued_tokens = 0;  // and tokens of their prompts
    int sequences = 0;      // that may run
};

}  // namespace glmd
