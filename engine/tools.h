#pragma once
// Functions that a model may call: how each family is told of them, how it writes a call, and how calls are read out of an answer.
//
//   GLM-4     <|assistant|>get_weather\n{"city": "北京"}<|observation|>\n{"celsius": 12}<|assistant|>
//   ChatGLM3  <|assistant|>get_weather\n ```python\ntool_call(city="北京")\n```<|observation|>\n…
//   others    <tool_call>\n{"name": "get_weather", "arguments": {"city": "北京"}}\n</tool_call>, as plain text
//
// Upstream: THUDM's tokenization_chatglm.py of chatglm3-6b and glm-4-9b-chat, and the chat template of GLM-4-0414.
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat.h"
#include "engine/grammar.h"

namespace glmd {

struct Tool {
    std::string name;
    std::string definition;  // JSON: {"name", "description", "parameters"}
    std::string parameters;  // JSON schema of an object
};

/// The conversation as its template writes it: the tools in front, calls and their results as text of their roles.
std::vector<ChatMessage> with_tools(std::vector<ChatMessage> messages, std::span<const Tool> tools, const ChatTemplate& chat);

/// Reads an answer as it comes. What it says follows from the text alone, however that is cut.
class ToolCallReader {
public:
    struct Event {
        enum class Kind : std::uint8_t { text, begin, arguments, end } kind;
        std::string text;  // the name of what is called, or a piece of text or of JSON
    };
    /// `apart`: an answer is calls or text, never both. A blank may lead.
    ToolCallReader(CallForm::Kind form, std::vector<std::string> names, bool apart = false) : form_(form), names_(std::move(names)), apart_(apart) {}
    std::vector<Event> push(std::string_view text);
    /// What was held back at the end.
    std::vector<Event> finish();

private:
    enum class State : std::uint8_t { start, text, name, keyword, value, object };
    void read(std::string_view text);
    bool read_start();
    void say(Event::Kind kind, std::string_view text);
    void skip(std::string_view text, State then) { left_ = text, state_ = then; }

    CallForm::Kind form_;
    std::vector<std::string> names_;
    bool apart_;
    State state_ = State::start;
    bool called_ = false, first_ = true, in_string_ = false, escaped_ = false;
    int depth_ = 0;
    std::string_view left_;  // of what is passed over
    std::string held_;
    std::vector<Event> events_;
};

}  // namespace glmd
