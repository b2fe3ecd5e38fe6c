// A conversation with tools is told in plain messages: each family has its own words for it, and its template needn't know.
#include "engine/tools.h"

#include <algorithm>

#include <boost/json.hpp>

namespace glmd {

namespace json = boost::json;

namespace {

constexpr std::string_view glm4_system =
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n";
constexpr std::string_view chatglm3_system = "Answer the following questions as best as you can. You have access to the following tools:\n";

/// As Python's json.dumps(value, indent=4, ensure_ascii=False).
void dump(const json::value& value, std::string& out, std::size_t indent) {
    const auto list = [&](const auto& items, char open, char close, auto&& each) {
        out += open;
        bool first = true;
        for (const auto& item : items) {
            out += first ? "\n" : ",\n";
            first = false;
            out.append(indent + 4, ' ');
            each(item);
        }
        if (!first) out.append("\n").append(indent, ' ');
        out += close;
    };
    if (value.is_object()) {
        list(value.get_object(), '{', '}', [&](const auto& pair) {
            out += json::serialize(json::value(pair.key())) + ": ";
            dump(pair.value(), out, indent + 4);
        });
    } else if (value.is_array()) {
        list(value.get_array(), '[', ']', [&](const json::value& item) { dump(item, out, indent + 4); });
    } else {
        out += json::serialize(value);
    }
}

std::string dumped(const json::value& value) {
    std::string out;
    dump(value, out, 0);
    return out;
}

/// {"a": 1} as a=1.
std::string keywords(const std::string& arguments) {
    boost::system::error_code error;
    const json::value value = json::parse(arguments, error);
    std::string out;
    if (error || !value.is_object()) return out;
    for (const auto& pair : value.get_object()) out += (out.empty() ? "" : ", ") + std::string(pair.key()) + "=" + json::serialize(pair.value());
    return out;
}

std::string introduction(std::span<const Tool> tools, CallForm::Kind form, std::string_view chat) {
    std::string out;
    switch (form) {
        case CallForm::Kind::python: {
            json::array all;
            for (const Tool& t : tools) all.push_back(json::parse(t.definition));
            return std::string(chatglm3_system) + dumped(all);
        }
        case CallForm::Kind::name_line:
            if (chat != "glm4-0414") out = glm4_system;
            out += "# 可用工具";
            for (const Tool& t : tools) {
                // GLM-4-0414's template takes one of the line breaks away.
                out += (chat == "glm4-0414" && &t != tools.data() ? "\n## " : "\n\n## ") + t.name + "\n\n" + dumped(json::parse(t.definition));
                out += "\n在调用上述函数时，请使用 Json 格式表示调用的参数。";
            }
            return out;
        case CallForm::Kind::json: break;
    }
    out = "These functions can be called:\n<tools>\n";
    for (const Tool& t : tools) out += t.definition + "\n";
    return out + "</tools>\nTo call one, answer with its name and arguments as JSON:\n<tool_call>\n{\"name\": \"…\", \"arguments\": {…}}\n</tool_call>";
}

}  // namespace

std::vector<ChatMessage> with_tools(std::vector<ChatMessage> messages, std::span<const Tool> tools, const ChatTemplate& chat) {
    const CallForm::Kind form = chat.call_form();
    std::vector<ChatMessage> out;
    if (!tools.empty()) {
        out.push_back({"system", introduction(tools, form, chat.name())});
        if (form == CallForm::Kind::json && !messages.empty() && messages[0].role == "system") {
            out[0].content = messages[0].content + "\n\n" + out[0].content;
            messages.erase(messages.begin());
        }
    }
    for (ChatMessage& message : messages) {
        if (message.role == "tool" && form == CallForm::Kind::json) {
            out.push_back({"user", "<tool_response>\n" + message.content + "\n</tool_response>"});
            continue;
        }
        const std::vector<ToolCall> calls = std::move(message.calls);
        message.calls.clear();
        if (calls.empty() || !message.content.empty()) out.push_back(std::move(message));
        std::string together;
        for (const ToolCall& call : calls) {
            if (form == CallForm::Kind::python) out.push_back({"assistant", std::string(call_marks::python_open) + keywords(call.arguments) + std::string(call_marks::python_close), call.name});
            if (form == CallForm::Kind::name_line) out.push_back({"assistant", call.arguments, call.name});
            if (form == CallForm::Kind::json)
                together += (together.empty() ? "" : "\n") + std::string(call_marks::open) + "\n{\"name\": " + json::serialize(json::value(call.name)) + ", \"arguments\": " + call.arguments + std::string(call_marks::close);
        }
        if (!together.empty()) out.push_back({"assistant", std::move(together)});
    }
    return out;
}

void ToolCallReader::say(Event::Kind kind, std::string_view text) {
    if (!events_.empty() && events_.back().kind == kind && (kind == Event::Kind::text || kind == Event::Kind::arguments)) events_.back().text += text;
    else events_.push_back({kind, std::string(text)});
}

std::vector<ToolCallReader::Event> ToolCallReader::push(std::string_view text) {
    events_.clear();
    read(text);
    return std::move(events_);
}

std::vector<ToolCallReader::Event> ToolCallReader::finish() {
    events_.clear();
    if ((state_ == State::start || state_ == State::text) && !held_.empty() && !called_) say(Event::Kind::text, held_);
    held_.clear();
    return std::move(events_);
}

/// Whether `held_` begins a call; true: that isn't known yet.
bool ToolCallReader::read_start() {
    std::string_view held = held_;
    if (held.starts_with(' ')) held.remove_prefix(1);
    if (form_ == CallForm::Kind::json) {
        if (held != call_marks::open) return call_marks::open.starts_with(held);
        held_.clear();
        skip(call_marks::name, State::name);
        return true;
    }
    for (const std::string& name : names_) {
        const std::string line = name + "\n";
        if (line == held) {
            say(Event::Kind::begin, name);
            held_.clear();
            called_ = true;
            first_ = true;
            if (form_ == CallForm::Kind::python) skip(call_marks::python_open, State::keyword);
            else depth_ = 0, state_ = State::object;
            return true;
        }
        if (line.starts_with(held)) return true;
    }
    return false;
}

void ToolCallReader::read(std::string_view text) {
    for (const char c : text) {
        if (!left_.empty()) {
            left_.remove_prefix(1);
            continue;
        }
        switch (state_) {
            case State::start:
                held_ += c;
                if (form_ == CallForm::Kind::json && !apart_) {
                    state_ = State::text;
                    const std::string held = std::move(held_);
                    held_.clear();
                    read(held);
                } else if (!read_start()) {
                    if (!called_) say(Event::Kind::text, held_);
                    held_.clear();
                    state_ = State::text;
                }
                break;
            case State::text:
                if (form_ != CallForm::Kind::json || (apart_ && !called_)) {
                    say(Event::Kind::text, {&c, 1});
                    break;
                }
                held_ += c;
                if (held_ == call_marks::open) {
                    held_.clear();
                    skip(call_marks::name, State::name);
                    break;
                }
                while (!held_.empty() && !call_marks::open.starts_with(held_)) {
                    if (!called_) say(Event::Kind::text, held_.substr(0, 1));  // between calls there are line breaks
                    held_.erase(0, 1);
                }
                break;
            case State::name:
                if (c != '"') {
                    held_ += c;
                    break;
                }
                say(Event::Kind::begin, held_);
                held_.clear();
                called_ = true;
                depth_ = 0;
                skip(call_marks::arguments.substr(1), State::object);
                break;
            case State::keyword:
                if (c == ')') {
                    say(Event::Kind::arguments, first_ ? "{}" : "}");
                    say(Event::Kind::end, {});
                    skip(call_marks::python_close.substr(1), State::start);
                } else if (c == '=') {
                    say(Event::Kind::arguments, (first_ ? "{\"" : ", \"") + held_ + "\": ");
                    held_.clear();
                    first_ = false;
                    depth_ = 0;
                    state_ = State::value;
                } else if (c != ' ' && c != ',') {
                    held_ += c;
                }
                break;
            case State::value:
                if (depth_ == 0 && !in_string_ && (c == ',' || c == ')')) {
                    state_ = State::keyword;
                    read({&c, 1});
                    break;
                }
                [[fallthrough]];
            case State::object:
                say(Event::Kind::arguments, {&c, 1});
                if (in_string_) {
                    if (escaped_) escaped_ = false;
                    else if (c == '\\') escaped_ = true;
                    else if (c == '"') in_string_ = false;
                } else if (c == '"') {
                    in_string_ = true;
                } else if (c == '{' || c == '[') {
                    ++depth_;
                } else if ((c == '}' || c == ']') && --depth_ == 0 && state_ == State::object) {
                    say(Event::Kind::end, {});
                    if (form_ == CallForm::Kind::json) skip(call_marks::close, State::text);
                    else state_ = State::start;
                }
                break;
        }
    }
}

}  // namespace glmd
