#pragma once
// A JSON object from a checkpoint's folder (config.json and its kin), read by name. Cheap to copy; immutable.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/error.h"

namespace glmd {

class Config {
public:
    Config() = default;  // no keys at all
    static Config parse(std::string_view text, const std::string& where);  // ModelError
    static Config read(const std::string& path);

    const std::string& where() const { return where_; }
    bool has(std::string_view key) const;  // and it isn't null
    // A missing key without a fallback, or one of another type, is a ModelError that names it.
    std::int64_t integer(std::string_view key, std::optional<std::int64_t> fallback = {}) const;
    double number(std::string_view key, std::optional<double> fallback = {}) const;
    bool boolean(std::string_view key, bool fallback) const;
    /// A text, or the "content" of an object (how tokenizer_config.json writes tokens).
    std::string string(std::string_view key, const std::string& fallback = {}) const;
    /// One integer or a list of them; empty when absent.
    std::vector<std::int64_t> integers(std::string_view key) const;
    /// A list of texts; empty when absent.
    std::vector<std::string> strings(std::string_view key) const;
    /// A nested object; without keys when absent.
    Config object(std::string_view key) const;
    std::vector<std::string> keys() const;
    /// A size that must be in 1 … limit.
    std::int64_t dimension(std::string_view key, std::int64_t limit, std::optional<std::int64_t> fallback = {}) const;

private:
    std::shared_ptr<const void> object_;  // a boost::json::object, inside its document
    std::string where_;
};

}  // namespace glmd
