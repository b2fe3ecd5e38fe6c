// OpenAI's chat completions: stateless. What the template can't say (images) is refused by name.
#include "daemon/answer_format.h"
#include "daemon/endpoints/completion_stream.h"
#include "daemon/messages.h"

namespace glmd::endpoints {

Answer create_chat_completion(Application& app, Exchange& exchange) {
    json::object body = parse_body(exchange.request().body);
    Parameters parameters(body);
    std::optional<std::string> model = parameters.text("model");
    const json::array* array = parameters.array("messages");
    if (!array) throw bad_parameter("messages", "'messages' is missing.", "missing_required_parameter");
    std::vector<ChatMessage> messages = read_messages(*array, "messages");
    CompletionCall call = read_completion(parameters, true);
    call.tools = read_tools(parameters, true);
    parameters.only("functions", {"[]"});
    call.format = read_response_format(parameters);
    parameters.only("modalities", {"[\"text\"]"});
    parameters.ignore({"store", "metadata"});
    parameters.finish();

    LoadWaiter waiter{exchange, call.stream, true};
    std::shared_ptr<Engine> engine = co_await app.require_engine(model, exchange.request().identity, &waiter);
    assign(app, exchange.request().identity, call.request);
    require_queue(app, *engine, call.request);
    call.request.grammar = co_await compile(app, engine, call.tools, call.format);
    call.request.prompt = co_await render_prompt(app, engine, with_tools(std::move(messages), call.tools.tools, engine->chat_template()));
    co_await answer_completion(app, exchange, engine, std::move(call));
}

}  // namespace glmd::endpoints
