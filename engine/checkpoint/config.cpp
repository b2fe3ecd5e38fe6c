// What is peculiar: Boost.JSON stays in this file; a nested object shares the ownership of its whole document.
#include "engine/checkpoint/config.h"

#include <boost/json.hpp>
#include <cmath>

#include "engine/checkpoint/mapped_file.h"

namespace glmd {
namespace {

namespace json = boost::json;

const json::value* find(const std::shared_ptr<const void>& object, std::string_view key) {
    if (!object) return nullptr;
    const auto* found = static_cast<const json::object*>(object.get())->if_contains({key.data(), key.size()});
    return found && !found->is_null() ? found : nullptr;
}

std::optional<std::int64_t> as_integer(const json::value& v) {
    if (v.is_int64()) return v.get_int64();
    if (v.is_uint64() && v.get_uint64() <= INT64_MAX) return static_cast<std::int64_t>(v.get_uint64());
    if (v.is_double() && std::abs(v.get_double()) < 9e15 && std::floor(v.get_double()) == v.get_double())
        return static_cast<std::int64_t>(v.get_double());
    return {};
}

}  // namespace

Config Config::parse(std::string_view text, const std::string& where) {
    json::error_code error;
    auto document = std::make_shared<json::value>(json::parse({text.data(), text.size()}, error));
    if (error) throw ModelError(where + ": this isn't JSON: " + error.message() + ".");
    if (!document->is_object()) throw ModelError(where + ": this isn't a JSON object.");
    Config c;
    c.where_ = where;
    c.object_ = std::shared_ptr<const void>(document, &document->get_object());
    return c;
}

Config Config::read(const std::string& path) { return parse(read_text(path, std::size_t{64} << 20), path); }

bool Config::has(std::string_view key) const { return find(object_, key) != nullptr; }

std::int64_t Config::integer(std::string_view key, std::optional<std::int64_t> fallback) const {
    const auto* v = find(object_, key);
    if (!v && fallback) return *fallback;
    const auto number = v ? as_integer(*v) : std::nullopt;
    if (!number) throw ModelError(where_ + ": \"" + std::string(key) + "\" is missing or isn't a whole number.");
    return *number;
}

double Config::number(std::string_view key, std::optional<double> fallback) const {
    const auto* v = find(object_, key);
    if (!v && fallback) return *fallback;
    json::error_code error;
    const double number = v ? v->to_number<double>(error) : std::nan("");
    if (!v || error || !std::isfinite(number))
        throw ModelError(where_ + ": \"" + std::string(key) + "\" is missing or isn't a number.");
    return number;
}

bool Config::boolean(std::string_view key, bool fallback) const {
    const auto* v = find(object_, key);
    if (!v) return fallback;
    if (!v->is_bool()) throw ModelError(where_ + ": \"" + std::string(key) + "\" is neither true nor false.");
    return v->get_bool();
}

std::string Config::string(std::string_view key, const std::string& fallback) const {
    const auto* v = find(object_, key);
    if (v && v->is_object()) v = v->get_object().if_contains("content");
    if (!v || !v->is_string()) return fallback;
    return {v->get_string().data(), v->get_string().size()};
}

std::vector<std::int64_t> Config::integers(std::string_view key) const {
    std::vector<std::int64_t> out;
    const auto* v = find(object_, key);
    if (!v) return out;
    auto add = [&](const json::value& x) {
        const auto number = as_integer(x);
        if (!number) throw ModelError(where_ + ": \"" + std::string(key) + "\" holds something that isn't a whole number.");
        out.push_back(*number);
    };
    if (v->is_array()) for (const auto& x : v->get_array()) add(x);
    else add(*v);
    return out;
}

std::vector<std::string> Config::strings(std::string_view key) const {
    std::vector<std::string> out;
    const auto* v = find(object_, key);
    if (!v || !v->is_array()) return out;
    for (const auto& x : v->get_array()) {
        const auto* text = x.is_object() ? x.get_object().if_contains("content") : &x;
        if (text && text->is_string()) out.emplace_back(text->get_string().data(), text->get_string().size());
    }
    return out;
}

Config Config::object(std::string_view key) const {
    Config c;
    c.where_ = where_ + " (" + std::string(key) + ")";
    const auto* v = find(object_, key);
    if (v && v->is_object()) c.object_ = std::shared_ptr<const void>(object_, &v->get_object());
    return c;
}

std::vector<std::string> Config::keys() const {
    std::vector<std::string> out;
    if (!object_) return out;
    for (const auto& entry : *static_cast<const json::object*>(object_.get())) out.emplace_back(entry.key().data(), entry.key().size());
    return out;
}

std::int64_t Config::dimension(std::string_view key, std::int64_t limit, std::optional<std::int64_t> fallback) const {
    const auto v = integer(key, fallback);
    if (v < 1 || v > limit)
        throw ModelError(where_ + ": \"" + std::string(key) + "\" is " + std::to_string(v) + "; it must be between 1 and " +
                         std::to_string(limit) + ".");
    return v;
}

}  // namespace glmd
