// Raw text goes on as it stands. Special tokens written in the prompt count as such: this is the way to a model without
// its template.
#include "daemon/endpoints/completion_stream.h"

namespace glmd::endpoints {

Answer create_completion(Application& app, Exchange& exchange) {
    json::object body = parse_body(exchange.request().body);
    Parameters parameters(body);
    std::optional<std::string> model = parameters.text("model");
    const json::value* prompt = parameters.any("prompt");
    if (!prompt) throw bad_parameter("prompt", "'prompt' is missing.", "missing_required_parameter");
    if (prompt->is_array() && prompt->get_array().size() == 1) prompt = &prompt->get_array().front();
    if (!prompt->is_string()) throw bad_parameter("prompt", "'prompt' must be one string.", "invalid_type");
    if (prompt->get_string().empty()) throw bad_parameter("prompt", "'prompt' is empty.");
    CompletionCall call = read_completion(parameters, false);
    parameters.only("echo", {"false"});
    parameters.only("suffix", {"\"\""});
    parameters.finish();
    if (call.request.max_tokens == 0) call.request.max_tokens = 16;  // OpenAI's default

    LoadWaiter waiter{exchange, call.stream, true};
    std::shared_ptr<Engine> engine = co_await app.require_engine(model, exchange.request().identity, &waiter);
    assign(app, exchange.request().identity, call.request);
    require_queue(app, *engine, call.request);
    std::string text(prompt->get_string());
    call.request.prompt = co_await run_on(app.text_pool, [&] { return engine->tokenizer().encode(text, Specials::parse); });
    co_await answer_completion(app, exchange, engine, std::move(call));
}

}  // namespace glmd::endpoints
