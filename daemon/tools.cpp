#include "daemon/tools.h"

#include <algorithm>

#include "engine/grammar.h"
#include "storage/session_store.h"

namespace glmd {
namespace {

using Kind = ToolCallReader::Event::Kind;

constexpr std::size_t most_tools = 128, longest_tools = 256 << 10;

std::string missing(const std::string& path) { return "'" + path + "' is missing."; }

Tool read_function(Parameters& function) {
    Tool tool;
    tool.name = function.text("name").value_or("");
    const bool good = !tool.name.empty() && tool.name.size() <= 64 && std::all_of(tool.name.begin(), tool.name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    });
    if (!good) throw bad_parameter(function.path("name"), "'" + function.path("name") + "' must be 1 to 64 letters, digits, '_' or '-'.");
    json::object definition{{"name", tool.name}};
    if (const auto description = function.text("description")) definition["description"] = *description;
    const json::object* parameters = function.object("parameters");
    definition["parameters"] = parameters ? *parameters : json::object{{"type", "object"}, {"properties", json::object()}};
    tool.parameters = json::serialize(definition["parameters"]);
    tool.definition = json::serialize(definition);
    function.ignore({"strict"});
    return tool;
}

}  // namespace

ToolUse read_tools(Parameters& parameters, bool chat) {
    ToolUse use;
    std::size_t bytes = 0;
    if (const json::array* tools = parameters.array("tools")) {
        if (tools->size() > most_tools) throw bad_parameter("tools", "'tools' has at most " + std::to_string(most_tools) + " entries.");
        for (const json::value& value : *tools) {
            const std::string at = "tools[" + std::to_string(use.tools.size()) + "]";
            if (!value.is_object()) throw bad_parameter(at, "'" + at + "' must be an object.", "invalid_type");
            Parameters tool(value.get_object(), at);
            if (tool.text("type").value_or("") != "function") throw bad_parameter(at + ".type", "Only tools of type 'function' are supported.", "unsupported_parameter");
            if (chat) {
                const json::object* inside = tool.object("function");
                if (!inside) throw bad_parameter(at + ".function", missing(at + ".function"), "missing_required_parameter");
                Parameters function(*inside, at + ".function");
                use.tools.push_back(read_function(function));
                function.finish();
            } else {
                use.tools.push_back(read_function(tool));
            }
            tool.finish();
            for (std::size_t i = 0; i + 1 < use.tools.size(); ++i)
                if (use.tools[i].name == use.tools.back().name) throw bad_parameter(at, "Two tools have the name '" + use.tools[i].name + "'.");
            if ((bytes += use.tools.back().definition.size()) > longest_tools)
                throw bad_parameter("tools", "'tools' has more than " + std::to_string(longest_tools >> 10) + " KiB.");
        }
    }
    use.several = parameters.boolean("parallel_tool_calls").value_or(true);
    const json::value* choice = parameters.any("tool_choice");
    if (!choice || *choice == "auto") return use;
    if (*choice == "none") {
        use.tools.clear();
        return use;
    }
    if (use.empty()) throw bad_parameter("tool_choice", "'tool_choice' needs 'tools'.");
    use.required = true;
    if (*choice == "required") return use;
    if (!choice->is_object()) throw bad_parameter("tool_choice", "'tool_choice' must be none, auto, required or name a function.");
    Parameters named(choice->get_object(), "tool_choice");
    if (named.text("type").value_or("") != "function") throw bad_parameter("tool_choice.type", "'tool_choice.type' must be function.", "unsupported_parameter");
    std::string name;
    if (chat) {
        const json::object* inside = named.object("function");
        if (!inside) throw bad_parameter("tool_choice.function", missing("tool_choice.function"), "missing_required_parameter");
        Parameters function(*inside, "tool_choice.function");
        name = function.text("name").value_or("");
        function.finish();
    } else {
        name = named.text("name").value_or("");
    }
    named.finish();
    const auto found = std::find_if(use.tools.begin(), use.tools.end(), [&](const Tool& t) { return t.name == name; });
    if (found == use.tools.end()) throw bad_parameter("tool_choice", "'tool_choice' names no function of 'tools'.");
    use.only = static_cast<std::size_t>(found - use.tools.begin());
    use.several = false;
    return use;
}

ToolCall read_call(Parameters& call, const std::string& id) {
    ToolCall out;
    out.id = id;
    out.name = call.text("name").value_or("");
    if (out.name.empty()) throw bad_parameter(call.path("name"), missing(call.path("name")), "missing_required_parameter");
    const std::string arguments = call.text("arguments").value_or("{}");
    boost::system::error_code error;
    json::parse_options options;
    options.max_depth = 200;
    const json::value value = json::parse(arguments, error, {}, options);
    if (error || !value.is_object()) throw bad_parameter(call.path("arguments"), "'" + call.path("arguments") + "' must be a JSON object, as text.");
    out.arguments = arguments;
    return out;
}

asio::awaitable<std::shared_ptr<const Grammar>> compile(Application& app, std::shared_ptr<Engine> engine, const ToolUse& use, const AnswerFormat& format) {
    if (use.empty()) co_return co_await compile(app, std::move(engine), format);
    auto work = [&engine, &use, &format] {
        std::vector<ToolSchema> schemas;
        for (std::size_t i = 0; i < use.tools.size(); ++i)
            if (!use.only || *use.only == i) schemas.push_back({use.tools[i].name, use.tools[i].parameters});
        try {
            return engine->grammars().tool_calls(schemas, {engine->chat_template().call_form(), use.required, use.several, format.schema});
        } catch (const SchemaError& e) {
            // "/N/…": of which tool; "/text/…": of the format.
            const auto cut = std::min(e.pointer.find('/', 1), e.pointer.size());
            const std::string first = e.pointer.substr(0, cut), rest = e.pointer.substr(cut);
            std::string param = "tools";
            if (first == "/text") param = format.param + rest;
            else if (!first.empty()) param = "tools[" + (use.only ? std::to_string(*use.only) : first.substr(1)) + "].parameters" + rest;
            throw bad_parameter(param, e.what() + (rest.empty() ? "" : " (at " + rest + ")"), "unsupported_schema");
        }
    };
    std::shared_ptr<const Grammar> grammar = co_await run_on(app.text_pool, work);
    co_return grammar;
}

CallingAnswer::CallingAnswer(const ToolUse& use, const AnswerFormat& format, const ChatTemplate& chat) {
    if (use.empty()) return;
    std::vector<std::string> names;
    for (const Tool& t : use.tools) names.push_back(t.name);
    reader_.emplace(chat.call_form(), std::move(names), use.required || !format.schema.empty());
}

std::vector<CallingAnswer::Piece> CallingAnswer::push(std::string_view text, bool last) {
    std::vector<ToolCallReader::Event> events;
    if (reader_) {
        events = reader_->push(text);
        if (last)
            for (ToolCallReader::Event& e : reader_->finish()) events.push_back(std::move(e));
    } else if (!text.empty()) {
        events.push_back({Kind::text, std::string(text)});
    }
    std::vector<Piece> out;
    for (ToolCallReader::Event& e : events) {
        if (e.kind == Kind::text) text_ += e.text;
        if (e.kind == Kind::begin) calls_.push_back({new_id("call_"), e.text, {}});
        if (e.kind == Kind::arguments) calls_.back().arguments += e.text;
        out.push_back({e.kind, calls_.empty() ? 0 : calls_.size() - 1, std::move(e.text)});
    }
    return out;
}

json::object CallingAnswer::message() const {
    json::object out{{"role", "assistant"}, {"content", text_}, {"refusal", nullptr}};
    if (calls_.empty()) return out;
    if (text_.empty()) out["content"] = nullptr;
    json::array calls;
    for (const ToolCall& c : calls_)
        calls.push_back(json::object{{"id", c.id}, {"type", "function"}, {"function", json::object{{"name", c.name}, {"arguments", c.arguments}}}});
    out["tool_calls"] = std::move(calls);
    return out;
}

json::object CallingAnswer::delta(const Piece& piece) const {
    if (piece.kind == Kind::text) return {{"content", piece.text}};
    json::object call{{"index", piece.call}};
    if (piece.kind == Kind::begin) {
        call["id"] = calls_[piece.call].id;
        call["type"] = "function";
        call["function"] = json::object{{"name", piece.text}, {"arguments", ""}};
    } else {
        call["function"] = json::object{{"arguments", piece.text}};
    }
    return {{"tool_calls", json::array{std::move(call)}}};
}

}  // namespace glmd
