#pragma once
// The form that an answer must have: `response_format` of chat completions, `text.format` of responses.
#include <memory>
#include <string>

#include "daemon/application.h"
#include "daemon/parameters.h"
#include "engine/engine.h"

namespace glmd {

struct AnswerFormat {
    std::string schema;  // JSON; empty: any text
    std::string param;   // where it stood in the request
};

AnswerFormat read_response_format(Parameters& parameters);
AnswerFormat read_text_format(Parameters& parameters);

/// On the text pool; null where any text will do. Throws HttpError 400 that names what isn't supported.
asio::awaitable<std::shared_ptr<const Grammar>> compile(Application& app, std::shared_ptr<Engine> engine, const AnswerFormat& format);

}  // namespace glmd
