// 200 only when a request for text would be answered. ?deep=1 asks the engine for one real token.
#include "daemon/endpoints/endpoints.h"
#include "daemon/generation.h"
#include "daemon/messages.h"

namespace glmd::endpoints {

Answer health(Application& app, Exchange& exchange) {
    app.require_model(exchange.request().identity);
    json::object body;
    body["status"] = "ok";
    body["model"] = app.model_id();
    auto deep = exchange.request().query.find("deep");
    if (deep != exchange.request().query.end() && deep->second != "0") {
        std::shared_ptr<Engine> engine = co_await app.require_engine(std::nullopt, exchange.request().identity);
        auto begun = std::chrono::steady_clock::now();
        ChatMessage hello;
        hello.role = "user";
        hello.content = "Hi";
        std::vector<ChatMessage> messages(1, hello);
        GenerationRequest request;
        request.prompt = co_await render_prompt(app, engine, messages);
        assign(app, exchange.request().identity, request);
        request.max_tokens = 1;
        request.sampling.temperature = 0;
        const double passes_s = 2 * engine->model().pass_s;  // one may be under way
        request.deadline = begun + std::chrono::seconds(30 + static_cast<int>(passes_s));
        GenerationRun run(app, engine, std::move(request), &exchange);
        std::string text = co_await run.collect();
        if (run.finish().reason == FinishReason::error || run.finish().reason == FinishReason::deadline)
            throw HttpError(503, "unhealthy", "The engine gave no token.");
        body["token_ms"] = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begun).count();
    }
    co_await exchange.respond(json_response(body));
}

}  // namespace glmd::endpoints
