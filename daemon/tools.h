#pragma once
// OpenAI's tools in chat completions and responses: what a request says, and what an answer's text says.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/answer_format.h"
#include "daemon/application.h"
#include "daemon/messages.h"
#include "daemon/parameters.h"
#include "engine/engine.h"
#include "engine/tools.h"

namespace glmd {

struct ToolUse {
    std::vector<Tool> tools;
    bool required = false, several = true;
    std::optional<std::size_t> only;  // tool_choice names it
    bool empty() const { return tools.empty(); }
};

/// tools, tool_choice, parallel_tool_calls; chat completions have a function's fields in an object of their own. With tool_choice
/// "none" there are no tools.
ToolUse read_tools(Parameters& parameters, bool chat);
/// A call that a client gives back. Throws HttpError where the arguments are no JSON object.
ToolCall read_call(Parameters& call, const std::string& id);

/// What the answer may be: calls, or text of this format. On the text pool; null where any text will do. Throws HttpError 400 that names
/// what isn't supported.
asio::awaitable<std::shared_ptr<const Grammar>> compile(Application& app, std::shared_ptr<Engine> engine, const ToolUse& use, const AnswerFormat& format);

/// An answer as it grows: text and calls.
class CallingAnswer {
public:
    CallingAnswer(const ToolUse& use, const AnswerFormat& format, const ChatTemplate& chat);

    struct Piece {
        ToolCallReader::Event::Kind kind;
        std::size_t call = 0;  // which; not of text
        std::string text;      // of begin: the name
        json::array logprobs = {};
    };
    /// `last`: nothing follows.
    std::vector<Piece> push(std::string_view text, bool last);

    const std::string& text() const { return text_; }
    const std::vector<ToolCall>& calls() const { return calls_; }
    /// As an item of a session holds it.
    std::string content() const { return calls_.empty() ? text_ : calls_content(text_, calls_); }
    /// Chat's "message", and the "delta" of a piece.
    json::object message() const;
    json::object delta(const Piece& piece) const;

private:
    std::optional<ToolCallReader> reader_;
    std::string text_;
    std::vector<ToolCall> calls_;
};

}  // namespace glmd
