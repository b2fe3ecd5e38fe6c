#pragma once
// What chat completions and completions have in common: they differ in the shape of their JSON only.
#include <functional>
#include <string>

#include "daemon/endpoints/endpoints.h"
#include "daemon/generation.h"
#include "daemon/parameters.h"
#include "daemon/tools.h"

namespace glmd::endpoints {

struct CompletionCall {
    std::string id, model;
    std::int64_t created = 0;
    bool stream = false, include_usage = false;
    bool chat = true;
    ToolUse tools;
    AnswerFormat format;
    int choices = 1;
    GenerationRequest request;
};

/// The parameters that both have; leaves prompt and identity empty.
CompletionCall read_completion(Parameters& parameters, bool chat);
/// Generates and answers. The prompt must be there.
asio::awaitable<void> answer_completion(Application& app, Exchange& exchange, std::shared_ptr<Engine> engine, CompletionCall call);

/// OpenAI's finish_reason; throws for what is no answer.
const char* finish_name(Application& app, const GenerationRun::Finish& finish);
json::object usage_json(const Usage& usage);
json::object timing_json(const Usage& usage);

}  // namespace glmd::endpoints
