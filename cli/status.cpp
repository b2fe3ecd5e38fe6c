// The status is printed from whatever the daemon reports, so that a newer daemon's numbers appear without a newer glm:
// names that end in _bytes, _s, _hz, _c or _at are shown in their units.
#include <CLI/CLI.hpp>
#include <iostream>

#include "cli/app.h"
#include "cli/client.h"
#include "cli/terminal.h"

namespace glmd {

namespace {

std::string shown(std::string_view key, const json::value& value) {
    const auto number = [&] { return value.is_number() ? value.to_number<double>() : 0.0; };
    if (value.is_string()) return one_line(value.get_string());
    if (value.is_bool()) return value.get_bool() ? "yes" : "no";
    if (value.is_null()) return "-";
    if (value.is_number() && key.ends_with("bytes")) return human_bytes(number());
    if (value.is_number() && key.ends_with("_per_s")) {
        char text[40];
        std::snprintf(text, sizeof text, "%.1f", number());
        return text;
    }
    if (value.is_number() && (key.ends_with("_s") || key.ends_with("_seconds"))) return human_seconds(number());
    if (value.is_number() && key.ends_with("_hz")) {
        char text[40];
        std::snprintf(text, sizeof text, "%.0f MHz", number() / 1e6);
        return text;
    }
    if (value.is_int64() && key.ends_with("_at")) return human_time(value.get_int64());
    if (value.is_double()) {
        char text[40];
        std::snprintf(text, sizeof text, "%.4g", number());
        return text;
    }
    return json::serialize(value);
}

std::string title(std::string_view key) {
    std::string text(key);
    for (std::string_view unit : {"_bytes", "_seconds", "_s", "_hz"})
        if (text.ends_with(unit) && !text.ends_with("_per_s")) {
            text.resize(text.size() - unit.size());
            break;
        }
    if (text.ends_with("_c")) text.replace(text.size() - 1, 1, "°C");
    for (char& c : text)
        if (c == '_') c = ' ';
    return text;
}

void print(const json::object& object, const Terminal& terminal, int indent) {
    const std::string space(static_cast<std::size_t>(indent), ' ');
    int width = 0;
    for (const auto& member : object)
        if (!member.value().is_object()) width = std::max(width, display_width(title(member.key())));
    for (const auto& member : object) {
        if (member.key() == "object") continue;  // "glm.status"
        const std::string name = one_line(title(member.key()));
        if (const json::object* inner = member.value().if_object()) {
            std::cout << space << terminal.paint(name, Style::bold) << '\n';
            print(*inner, terminal, indent + 2);
        } else if (const json::array* list = member.value().if_array(); list && !list->empty() && list->front().is_object()) {
            std::cout << space << terminal.paint(name, Style::bold) << '\n';
            for (const json::value& entry : *list)
                if (entry.is_object()) print(entry.get_object(), terminal, indent + 2);
        } else {
            std::cout << space << pad(name, width + 2) << shown(member.key(), member.value()) << '\n';
        }
    }
}

Exit run_status(const Globals& globals) {
    const Terminal terminal(globals.no_color);
    Client client(globals.socket);
    const json::value status = client.get("/v1/glm/status");
    if (globals.json) std::cout << json::serialize(status) << '\n';
    else print(as_object(status), terminal, 0);
    return Exit::ok;
}

}  // namespace

void add_status(CLI::App& app, Globals& globals, Action& action) {
    CLI::App* sub = app.add_subcommand("status", "what the daemon is doing: model, memory, queue, speed");
    sub->footer(
        "Examples:\n"
        "  glm status\n"
        "  glm status --json | jq .model\n"
        "  glm --socket /run/user/1000/glmd/glmd.sock status");
    sub->callback([&globals, &action] { action = [&globals] { return run_status(globals); }; });
}

}  // namespace glmd
