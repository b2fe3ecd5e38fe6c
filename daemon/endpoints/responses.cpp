// OpenAI's responses, made durable. The order is the promise: the user's items are committed before the engine hears of
// them, the growing answer is written at most every 500 ms, and the last commit comes before the last event.
// A client that leaves ends the generation; what is there is stored as incomplete. With `background` it goes on (background.h).
#include <charconv>

#include "daemon/endpoints/background.h"
#include "daemon/endpoints/compaction.h"
#include "daemon/log.h"
#include "daemon/logprobs.h"
#include "daemon/messages.h"
#include "daemon/parameters.h"

namespace glmd::endpoints {

ResponseCall read_call(const json::object& body, bool needs_input) {
    ResponseCall call;
    Parameters parameters(body);
    call.model = parameters.text("model");
    const json::value* input = parameters.any("input");
    if (!input && needs_input) throw bad_parameter("input", "'input' is missing.", "missing_required_parameter");
    if (input) call.input = read_input(*input, "input");
    if (input && call.input.empty()) throw bad_parameter("input", "'input' is empty.");
    if (const json::value* conversation = parameters.any("conversation")) {
        if (conversation->is_object()) {
            Parameters inner(conversation->get_object(), "conversation");
            call.conversation = inner.text("id").value_or("");
            inner.finish();
        } else {
            call.conversation = parameters.text("conversation").value_or("");
        }
        if (call.conversation.empty()) throw bad_parameter("conversation", "'conversation' must be an id or {\"id\": …}.");
    }
    call.previous = parameters.text("previous_response_id").value_or("");
    if (!call.previous.empty() && !call.conversation.empty())
        throw bad_parameter("previous_response_id", "'previous_response_id' and 'conversation' exclude each other.", "mutually_exclusive_parameters");
    call.store = parameters.boolean("store").value_or(true);
    if (!call.store && !call.conversation.empty())
        throw bad_parameter("store", "'store' can't be false with a conversation.", "mutually_exclusive_parameters");
    call.stream = parameters.boolean("stream").value_or(false);
    call.instructions = parameters.text("instructions").value_or("");
    call.metadata = read_metadata(parameters);
    call.truncation = parameters.text("truncation").value_or("disabled");
    if (call.truncation != "auto" && call.truncation != "disabled") throw bad_parameter("truncation", "'truncation' must be auto or disabled.");
    call.max_output_tokens = read_max_tokens(parameters, {"max_output_tokens", "max_completion_tokens", "max_tokens"});
    call.sampling = read_sampling(parameters);
    call.speculate = parameters.boolean("speculation").value_or(true);
    call.stop = read_stop(parameters);
    call.background = parameters.boolean("background").value_or(false);
    if (call.background && !call.store)
        throw bad_parameter("background", "'background' needs 'store'.", "mutually_exclusive_parameters");
    if (const json::array* management = parameters.array("context_management")) {
        for (const json::value& one : *management) {
            if (!one.is_object()) throw bad_parameter("context_management", "'context_management' must be an array of objects.", "invalid_type");
            Parameters entry(one.get_object(), "context_management[]");
            if (entry.text("type").value_or("") != "compaction") throw bad_parameter("context_management[].type", "'type' must be compaction.", "unsupported_parameter");
            call.compact_threshold = int(entry.integer("compact_threshold", 1, 1 << 24).value_or(0));
            entry.finish();
        }
    }
    call.tools = read_tools(parameters, false);
    call.format = read_text_format(parameters);
    bool logprobs = false;
    if (const json::array* include = parameters.array("include"))
        for (const json::value& what : *include) {
            if (what != "message.output_text.logprobs") throw bad_parameter("include", "'include' can only have message.output_text.logprobs.", "unsupported_parameter");
            logprobs = true;
        }
    const auto top_logprobs = parameters.integer("top_logprobs", 0, 20);
    if (logprobs) call.sampling.logprobs = int(top_logprobs.value_or(0));
    else if (top_logprobs.value_or(0) > 0) throw bad_parameter("top_logprobs", "'top_logprobs' needs 'include': [\"message.output_text.logprobs\"].");
    if (logprobs && call.background) throw bad_parameter("include", "Log probabilities aren't kept: not with 'background'.", "mutually_exclusive_parameters");
    parameters.only("reasoning", {"{}", "{\"effort\":null}", "{\"effort\":\"none\"}", "{\"effort\":null,\"summary\":null}"});
    call.service_class = read_service_tier(parameters);
    parameters.ignore({"user", "safety_identifier", "prompt_cache_key"});
    if (const json::object* object = parameters.object("stream_options")) {
        Parameters options(*object, "stream_options");
        options.ignore({"include_obfuscation"});
        options.finish();
    }
    parameters.finish();
    return call;
}

asio::awaitable<std::vector<Item>> history_of(Application& app, const Identity& identity, const ResponseCall& call) {
    std::optional<std::vector<Item>> history = co_await app.storage.call([&](SessionStore& store) -> std::optional<std::vector<Item>> {
        if (!call.conversation.empty()) return store.items(identity, call.conversation, -1, "", false);
        if (!call.previous.empty()) return store.chain(identity, call.previous);
        return std::vector<Item>();
    });
    if (!history && !call.conversation.empty())
        throw HttpError(404, "conversation_not_found", "There is no conversation '" + call.conversation + "'.", "conversation");
    if (!history) throw HttpError(404, "previous_response_not_found", "There is no response '" + call.previous + "'.", "previous_response_id");
    co_return std::move(*history);
}

std::vector<ChatMessage> messages_of(const ResponseCall& call, const std::vector<Item>& history, const ChatTemplate& chat) {
    std::vector<ChatMessage> messages;
    auto add = [&](const std::string& role, const std::string& content) {
        ChatMessage message;
        message.role = role;
        message.content = content;
        messages.push_back(std::move(message));
    };
    if (!call.instructions.empty()) add("system", call.instructions);
    std::vector<Item> items = history;
    items.insert(items.end(), call.input.begin(), call.input.end());
    for (const Item& item : visible(items)) {
        if (item.role == "compaction") add("system", "Summary of the conversation so far: " + summary_of(item));
        else if (!item.content.empty()) messages.push_back(message_of(item));
    }
    return with_tools(std::move(messages), call.tools.tools, chat);
}

namespace {

/// Where the prompt is too long already, older turns become a summary, which is the first item of the input then.
asio::awaitable<void> compact_history(Application& app, std::shared_ptr<Engine> engine, Exchange& exchange, ResponseCall& call,
                                      const std::vector<Item>& history) {
    const int context = engine->model().context;
    const int reserve = std::min(call.max_output_tokens ? call.max_output_tokens : context / 4, context / 2);
    const int threshold = *call.compact_threshold ? std::min(*call.compact_threshold, context - reserve) : context - reserve;
    const std::vector<TokenId> prompt = co_await render_prompt(app, engine, messages_of(call, history, engine->chat_template()));
    if (int(prompt.size()) <= threshold) co_return;
    if (call.stream) {
        exchange.events().queue("glm.compaction.in_progress", R"({"type":"glm.compaction.in_progress"})");
        co_await exchange.events().flush();
    }
    const std::optional<Compaction> made = co_await compact(app, engine, exchange, call.service_class, history, threshold / 4);
    if (!made) co_return;
    call.compaction = made->item;
    call.input.insert(call.input.begin(), made->item);
    if (!call.stream) co_return;
    json::object item = compaction_json(made->item);
    exchange.events().queue("glm.compaction.completed", json::serialize(json::object{{"type", "glm.compaction.completed"}, {"item", std::move(item)}}));
    co_await exchange.events().flush();
}

void append(json::array& to, const json::array& more) { to.insert(to.end(), more.begin(), more.end()); }

/// Those of the tokens that lie within the next `bytes` of text, which are counted down.
json::array take_logprobs(json::array& tokens, std::size_t& bytes) {
    std::size_t whole = 0;
    for (; whole < tokens.size(); ++whole) {
        const std::size_t size = tokens[whole].at("bytes").as_array().size();
        if (size > bytes) break;
        bytes -= size;
    }
    json::array out(tokens.begin(), tokens.begin() + whole);
    tokens.erase(tokens.begin(), tokens.begin() + whole);
    return out;
}

}  // namespace

Answer create_response(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    json::object body = parse_body(exchange.request().body);
    ResponseCall call = read_call(body);
    LoadWaiter waiter{exchange, call.stream};
    std::shared_ptr<Engine> engine = co_await app.require_engine(call.model, identity, &waiter);
    GenerationRequest request;
    request.service_class = call.service_class;
    assign(app, identity, request);
    call.service_class = request.service_class;
    require_queue(app, *engine, request);

    // What was said before. The conversation is ours until the answer is stored.
    Application::Busy busy;
    if (!call.conversation.empty()) busy = Application::Busy(app, identity, call.conversation);
    const std::vector<Item> history = co_await history_of(app, identity, call);

    if (call.compact_threshold) co_await compact_history(app, engine, exchange, call, history);

    // The prompt.
    std::vector<ChatMessage> messages = messages_of(call, history, engine->chat_template());
    std::size_t truncated = 0;
    if (call.truncation == "auto") {
        int context = engine->model().context;
        int reserve = std::min(call.max_output_tokens ? call.max_output_tokens : context / 4, context / 2);
        Truncated fitted = co_await render_truncated(app, engine, std::move(messages), reserve);
        request.prompt = std::move(fitted.prompt);
        truncated = fitted.dropped;
    } else {
        request.prompt = co_await render_prompt(app, engine, std::move(messages));
    }
    request.max_tokens = fit_max_tokens(*engine, request.prompt.size(), call.max_output_tokens, "input");
    request.sampling = call.sampling;
    request.speculate = call.speculate;
    request.stop = call.stop;
    request.grammar = co_await compile(app, engine, call.tools, call.format);

    // Commit what the user said.
    Response response;
    response.conversation_id = call.conversation;
    response.previous_response_id = call.previous;
    response.model = model_id_of(engine->model().path);
    response.instructions = call.instructions;
    response.metadata = call.metadata;
    response.input = call.input;
    response.background = call.background;
    response.output.role = "assistant";
    response.output.status = ItemStatus::in_progress;
    if (call.store) {
        std::optional<Response> begun = co_await app.storage.call([&](SessionStore& store) { return store.begin_response(identity, response); });
        if (!begun) throw no_response(call.previous, "previous_response_id");
        response = std::move(*begun);
    } else {
        response.id = new_id("resp_");
        response.output.id = new_id("msg_");
        response.created_at = unix_now();
    }
    Application::Busy answering(app, identity, response.id);
    if (call.store) {
        request.continues = call.conversation.empty() ? call.previous : call.conversation;
        request.session = call.conversation.empty() ? response.id : call.conversation;
        if (app.snapshots && !request.continues.empty())
            request.image = co_await app.snapshots->load(identity, request.continues, engine->model().kv_kind);
    }

    // Start. If the engine won't have it after all, what was committed is taken back, so that a retry says it once.
    std::unique_ptr<GenerationRun> run;
    std::exception_ptr refused;
    try {
        run = std::make_unique<GenerationRun>(app, engine, std::move(request), call.background ? nullptr : &exchange);
    } catch (const HttpError&) {
        refused = std::current_exception();
    }
    if (refused) {
        if (call.store)
            co_await app.storage.call([&](SessionStore& store) {
                if (!response.conversation_id.empty()) {
                    for (const Item& item : response.input) store.remove_item(identity, response.conversation_id, item.id);
                    store.remove_item(identity, response.conversation_id, response.output.id);
                }
                store.remove_response(identity, response.id);
            });
        std::rethrow_exception(refused);
    }

    CallingAnswer answer(call.tools, call.format, engine->chat_template());
    if (call.background) {
        std::vector<Application::Busy> held;
        held.push_back(std::move(busy));
        held.push_back(std::move(answering));
        const bool stream = call.stream;
        const auto detached = std::make_shared<Background>(app, identity, std::move(response), std::move(call), truncated, std::move(answer));
        detached->start(std::move(run), std::move(held));
        if (stream) co_await Background::follow(detached, exchange, 0);
        else co_await exchange.respond(json_response(detached->json()));
        co_return;
    }

    std::optional<ResponseEvents> events;
    if (call.stream) {
        events.emplace(exchange.events());
        events->response("response.created", response_json(response, call, truncated, nullptr));
        co_await exchange.events().flush();
    }
    auto announce = [&] {
        events->response("response.in_progress", response_json(response, call, truncated, nullptr));
        if (!call.tools.empty()) return;  // it isn't known yet what the first item is
        events->item_added(response.output);
        events->part_added(response.output);
    };

    // Text as it comes.
    ResponseCheckpoints checkpoints(app, identity);
    std::string text;
    json::array logprobs, unsent;  // of the text; they aren't stored
    std::size_t untold = 0;        // bytes of text whose tokens are still among these
    bool announced = !call.stream;
    int place = -1;
    auto sent = std::chrono::steady_clock::now();
    for (;;) {
        auto until = call.store ? checkpoints.next(response.output.content.size()) : std::chrono::steady_clock::now() + keep_alive_interval;
        if (call.stream) until = std::min(until, sent + keep_alive_interval);
        bool more = co_await run->next(text, until, announced ? nullptr : &place);
        if (!announced) {
            if (place == 0 || !text.empty() || !more) {
                announce();
                announced = true;
                place = 0;
            } else if (place > 0) {
                json::object queued = response_json(response, call, truncated, nullptr);
                queued["status"] = "queued";
                queued["glm"] = json::object();
                queued["glm"].get_object()["queue_position"] = place;
                events->response("response.queued", queued);
            }
            co_await exchange.events().flush();
            sent = std::chrono::steady_clock::now();
        }
        append(unsent, logprobs_json(engine->tokenizer(), run->take_logprobs()));
        if (!call.tools.empty() && (!text.empty() || !more)) {
            auto pieces = answer.push(text, !more);
            response.output.content = answer.content();
            for (auto& p : pieces) {
                if (p.kind != ToolCallReader::Event::Kind::text) continue;
                p.logprobs = take_logprobs(unsent, untold += p.text.size());
                append(logprobs, p.logprobs);
            }
            if (call.stream && !pieces.empty()) {
                events->pieces(response.output, answer.text(), answer.calls(), pieces, logprobs);
                co_await exchange.events().flush();
                sent = std::chrono::steady_clock::now();
            }
        } else if (!text.empty()) {
            response.output.content += text;
            append(logprobs, unsent);
            json::array now = std::exchange(unsent, {});
            if (call.stream) {
                events->delta(response.output, text, std::move(now));
                co_await exchange.events().flush();
                sent = std::chrono::steady_clock::now();
            }
        } else if (more && call.stream && std::chrono::steady_clock::now() - sent >= keep_alive_interval) {
            co_await exchange.events().keep_alive();
            sent = std::chrono::steady_clock::now();
        }
        if (!more) break;
        if (call.store) checkpoints.note(response, response.output.content.size());
    }

    if (answer.calls().empty()) append(logprobs, unsent);

    // Commit the answer, then say so.
    GenerationRun::Finish finish = run->finish();
    run.reset();
    settle(app, response, finish);
    if (finish.reason == FinishReason::error) log_error(response.id + ": " + finish.message);
    if (call.store) co_await app.storage.call([&](SessionStore& store) { store.finish_response(identity, response); });
    json::object last = response_json(response, call, truncated, &finish.usage);
    for (json::value& item : last["output"].as_array())
        if (item.at("type") == "message") add_logprobs(item, logprobs);
    if (!call.stream) {
        co_await exchange.respond(json_response(last));
        co_return;
    }
    events->end(response, last, logprobs);
    co_await exchange.events().flush();
}

namespace {

std::shared_ptr<Background> running(const Application& app, const Identity& identity, const std::string& id) {
    const auto found = app.background.find({identity, id});
    return found == app.background.end() ? nullptr : found->second;
}

asio::awaitable<Response> stored(Application& app, const Identity& identity, const std::string& id) {
    std::optional<Response> found = co_await app.storage.call([&](SessionStore& store) { return store.response(identity, id); });
    if (!found) throw no_response(id, "response_id");
    co_return std::move(*found);
}

/// `stream` and `starting_after`: the number of the first event that is wanted; nothing: no stream.
std::optional<std::int64_t> first_event(const std::map<std::string, std::string>& query) {
    const auto stream = query.find("stream"), after = query.find("starting_after");
    const bool wanted = stream != query.end() && stream->second != "false";
    if (after == query.end()) return wanted ? std::optional<std::int64_t>(0) : std::nullopt;
    if (!wanted) throw bad_parameter("starting_after", "'starting_after' needs 'stream'.");
    std::int64_t number = 0;
    const char* end = after->second.data() + after->second.size();
    if (const auto read = std::from_chars(after->second.data(), end, number); read.ec != std::errc() || read.ptr != end || number < 0 || number > INT32_MAX)
        throw bad_parameter("starting_after", "'starting_after' must be the number of an event.");
    return number + 1;
}

}  // namespace

Answer get_response(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    const std::string& id = exchange.request().path_parameters.at(0);
    const std::optional<std::int64_t> first = first_event(exchange.request().query);
    if (const auto detached = running(app, identity, id)) {
        if (first) co_await Background::follow(detached, exchange, *first);
        else co_await exchange.respond(json_response(detached->json()));
        co_return;
    }
    const Response response = co_await stored(app, identity, id);
    if (!first) {
        co_await exchange.respond(json_response(response_json(response)));
        co_return;
    }
    if (!response.background) throw bad_parameter("stream", "Only a response that was made with 'background' can be streamed again.");
    co_await replay(response, exchange, *first);
}

Answer cancel_response(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    const std::string& id = exchange.request().path_parameters.at(0);
    if (const auto detached = running(app, identity, id)) {
        detached->cancel();
        co_await Background::until_finished(detached, exchange);
        co_await exchange.respond(json_response(detached->json()));
        co_return;
    }
    const Response response = co_await stored(app, identity, id);
    if (!response.background)
        throw bad_parameter("response_id", "Only a response that was made with 'background' can be cancelled; any other ends when its client leaves.");
    co_await exchange.respond(json_response(response_json(response)));
}

Answer delete_response(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    const std::string& id = exchange.request().path_parameters.at(0);
    Application::Busy busy(app, identity, id);
    bool removed = co_await app.storage.call([&](SessionStore& store) { return store.remove_response(identity, id); });
    if (!removed) throw no_response(id, "response_id");
    if (app.snapshots) app.snapshots->remove(identity, id);
    co_await exchange.respond(json_response(deleted_json(id, "response")));
}

}  // namespace glmd::endpoints
