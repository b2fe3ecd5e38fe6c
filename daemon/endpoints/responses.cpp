// OpenAI's responses, made durable. The order is the promise: the user's items are committed before the engine hears of
// them, the growing answer is written at most every 500 ms, and the last commit comes before the last event.
// A client that leaves ends the generation; what is there is stored as incomplete.
#include <cmath>

#include "daemon/endpoints/completion_stream.h"
#include "daemon/log.h"
#include "daemon/messages.h"

namespace glmd::endpoints {
namespace {

constexpr std::chrono::milliseconds checkpoint_interval{500};

struct Call {
    std::vector<Item> input;
    std::string conversation, previous, instructions, metadata = "{}", truncation = "disabled";
    std::optional<std::string> model;
    bool store = true, stream = false;
    int max_output_tokens = 0;
    SamplingOptions sampling;
    ServiceClass service_class = ServiceClass::normal;
    std::vector<std::string> stop;
};

Call read_call(const json::object& body) {
    Call call;
    Parameters parameters(body);
    call.model = parameters.text("model");
    const json::value* input = parameters.any("input");
    if (!input) throw bad_parameter("input", "'input' is missing.", "missing_required_parameter");
    call.input = read_input(*input, "input");
    if (call.input.empty()) throw bad_parameter("input", "'input' is empty.");
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
    call.max_output_tokens = int(parameters.integer("max_output_tokens", 1, 1 << 24).value_or(0));
    call.sampling = read_sampling(parameters);
    call.stop = read_stop(parameters);
    parameters.only("background", {"false"});
    parameters.only("tools", {"[]"});
    parameters.only("tool_choice", {"\"auto\"", "\"none\""});
    parameters.only("parallel_tool_calls", {"true", "false"});
    parameters.only("include", {"[]"});
    parameters.only("text", {"{\"format\":{\"type\":\"text\"}}", "{}"});
    parameters.only("reasoning", {"{}", "{\"effort\":null}", "{\"effort\":\"none\"}", "{\"effort\":null,\"summary\":null}"});
    call.service_class = read_service_tier(parameters);
    parameters.only("top_logprobs", {"0"});
    parameters.ignore({"user", "safety_identifier", "prompt_cache_key"});
    if (const json::object* object = parameters.object("stream_options")) {
        Parameters options(*object, "stream_options");
        options.ignore({"include_obfuscation"});
        options.finish();
    }
    parameters.finish();
    return call;
}

std::string_view status_name(ResponseStatus status) {
    switch (status) {
        case ResponseStatus::in_progress: return "in_progress";
        case ResponseStatus::completed: return "completed";
        case ResponseStatus::incomplete: return "incomplete";
        case ResponseStatus::failed: return "failed";
        case ResponseStatus::cancelled: break;
    }
    return "cancelled";
}

json::value text_or_null(const std::string& text) { return text.empty() ? json::value(nullptr) : json::value(text); }

json::object response_json(const Response& response) {
    json::object out;
    out["id"] = response.id;
    out["object"] = "response";
    out["created_at"] = response.created_at;
    out["status"] = status_name(response.status);
    out["background"] = false;
    out["error"] = nullptr;
    if (response.status == ResponseStatus::failed) {
        json::object error;
        error["code"] = "server_error";
        error["message"] = "The engine failed; the service's log has the reason.";
        out["error"] = std::move(error);
    }
    out["incomplete_details"] = nullptr;
    if (response.status == ResponseStatus::incomplete) {
        json::object details;
        details["reason"] = response.incomplete_reason;
        out["incomplete_details"] = std::move(details);
    }
    out["instructions"] = text_or_null(response.instructions);
    out["metadata"] = json::parse(response.metadata);
    out["model"] = response.model;
    json::array output;
    if (response.status != ResponseStatus::in_progress || !response.output.content.empty()) output.push_back(item_json(response.output));
    out["output"] = std::move(output);
    out["parallel_tool_calls"] = true;
    out["previous_response_id"] = text_or_null(response.previous_response_id);
    out["conversation"] = nullptr;
    if (!response.conversation_id.empty()) {
        json::object conversation;
        conversation["id"] = response.conversation_id;
        out["conversation"] = std::move(conversation);
    }
    out["tool_choice"] = "auto";
    out["tools"] = json::array();
    out["usage"] = nullptr;
    if (response.status != ResponseStatus::in_progress) {
        json::object usage, input_details, output_details;
        input_details["cached_tokens"] = 0;
        output_details["reasoning_tokens"] = 0;
        usage["input_tokens"] = response.input_tokens;
        usage["input_tokens_details"] = std::move(input_details);
        usage["output_tokens"] = response.output_tokens;
        usage["output_tokens_details"] = std::move(output_details);
        usage["total_tokens"] = response.input_tokens + response.output_tokens;
        out["usage"] = std::move(usage);
    }
    return out;
}

/// What only the request knew.
json::object response_json(const Response& response, const Call& call, std::size_t truncated, const Usage* usage) {
    json::object out = response_json(response);
    out["store"] = call.store;
    auto shown = [](float value) { return std::round(double(value) * 1e6) / 1e6; };  // 0.8, not 0.800000011920929
    out["temperature"] = shown(call.sampling.temperature);
    out["top_p"] = shown(call.sampling.top_p);
    out["truncation"] = call.truncation;
    out["max_output_tokens"] = nullptr;
    if (call.max_output_tokens) out["max_output_tokens"] = call.max_output_tokens;
    out["service_tier"] = service_tier_name(call.service_class);
    json::object glm;
    if (usage) {
        glm = timing_json(*usage);
        if (out["usage"].is_object()) out["usage"].get_object()["input_tokens_details"].get_object()["cached_tokens"] = usage->cached_tokens;
    }
    if (call.truncation == "auto") glm["truncated_items"] = truncated;
    if (!glm.empty()) out["glm"] = std::move(glm);
    return out;
}

/// Typed events with their running number.
class Events {
public:
    explicit Events(EventStream& stream) : stream_(stream) {}
    void queue(const char* type, json::object data) {
        data["type"] = type;
        data["sequence_number"] = number_++;
        stream_.queue(type, json::serialize(data));
    }
    void queue_response(const char* type, json::object response) {
        json::object data;
        data["response"] = std::move(response);
        queue(type, std::move(data));
    }
    json::object about(const Item& item) const {
        json::object data;
        data["item_id"] = item.id;
        data["output_index"] = 0;
        data["content_index"] = 0;
        return data;
    }

private:
    EventStream& stream_;
    int number_ = 0;
};

json::object text_part(const std::string& text) {
    json::object part;
    part["type"] = "output_text";
    part["text"] = text;
    part["annotations"] = json::array();
    part["logprobs"] = json::array();
    return part;
}

/// One write at a time, never waited for: a slow disk must not hold up a stream.
class Checkpoints {
public:
    Checkpoints(Application& app, const Identity& identity) : app_(app), identity_(identity), last_(std::chrono::steady_clock::now()) {}
    void note(const Response& response, std::size_t stored_size) {
        auto now = std::chrono::steady_clock::now();
        if (*running_ || now - last_ < checkpoint_interval || stored_size == size_) return;
        last_ = now;
        size_ = stored_size;
        *running_ = true;
        app_.storage.post([response, identity = identity_, running = running_](SessionStore& store) {
            try {
                store.checkpoint(identity, response);
            } catch (const std::exception& e) {
                log_error(std::string("checkpoint: ") + e.what());
            }
            *running = false;
        });
    }
    /// When to look again: soon if there is unwritten text.
    std::chrono::steady_clock::time_point next(std::size_t size) const {
        auto now = std::chrono::steady_clock::now();
        return size == size_ ? now + keep_alive_interval : std::max(last_ + checkpoint_interval, now + std::chrono::milliseconds(10));
    }

private:
    Application& app_;
    Identity identity_;
    std::chrono::steady_clock::time_point last_;
    std::size_t size_ = 0;
    std::shared_ptr<std::atomic<bool>> running_ = std::make_shared<std::atomic<bool>>(false);
};

void settle(Application& app, Response& response, const GenerationRun::Finish& finish) {
    response.output.status = ItemStatus::incomplete;
    response.status = ResponseStatus::incomplete;
    response.input_tokens = finish.usage.prompt_tokens;
    response.output_tokens = finish.usage.completion_tokens;
    switch (finish.reason) {
        case FinishReason::stop:
            response.status = ResponseStatus::completed;
            response.output.status = ItemStatus::completed;
            break;
        case FinishReason::length: response.incomplete_reason = "max_output_tokens"; break;
        case FinishReason::cancelled: response.incomplete_reason = app.stopping ? "interrupted" : "cancelled"; break;
        case FinishReason::deadline: response.incomplete_reason = "deadline"; break;
        case FinishReason::error:
            response.status = ResponseStatus::failed;
            response.incomplete_reason = "error";
            break;
    }
}

HttpError no_response(const std::string& id, const char* param) {
    return HttpError(404, "response_not_found", "There is no response '" + id + "'.", param);
}

}  // namespace

Answer create_response(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    json::object body = parse_body(exchange.request().body);
    Call call = read_call(body);
    std::shared_ptr<Engine> engine = app.require_engine(call.model);
    require_queue(app, *engine, identity, call.service_class);

    // What was said before. The conversation is ours until the answer is stored.
    Application::Busy busy;
    if (!call.conversation.empty()) busy = Application::Busy(app, identity, call.conversation);
    std::optional<std::vector<Item>> history = co_await app.storage.call([&](SessionStore& store) -> std::optional<std::vector<Item>> {
        if (!call.conversation.empty()) return store.items(identity, call.conversation, -1, "", false);
        if (!call.previous.empty()) return store.chain(identity, call.previous);
        return std::vector<Item>();
    });
    if (!history && !call.conversation.empty())
        throw HttpError(404, "conversation_not_found", "There is no conversation '" + call.conversation + "'.", "conversation");
    if (!history) throw HttpError(404, "previous_response_not_found", "There is no response '" + call.previous + "'.", "previous_response_id");

    // The prompt.
    std::vector<ChatMessage> messages;
    auto add = [&](const std::string& role, const std::string& content) {
        ChatMessage message;
        message.role = role;
        message.content = content;
        messages.push_back(std::move(message));
    };
    if (!call.instructions.empty()) add("system", call.instructions);
    for (const Item& item : *history)
        if (!item.content.empty()) add(item.role, item.content);
    for (const Item& item : call.input) add(item.role, item.content);
    GenerationRequest request;
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
    request.uid = identity.uid;
    request.tenant = identity.tenant;
    request.sampling = call.sampling;
    request.service_class = call.service_class;
    request.stop = call.stop;

    // Commit what the user said.
    Response response;
    response.conversation_id = call.conversation;
    response.previous_response_id = call.previous;
    response.model = app.model_id();
    response.instructions = call.instructions;
    response.metadata = call.metadata;
    response.input = call.input;
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

    // Start. If the engine won't have it after all, what was committed is taken back, so that a retry says it once.
    std::unique_ptr<GenerationRun> run;
    std::exception_ptr refused;
    try {
        run = std::make_unique<GenerationRun>(app, engine, std::move(request), exchange);
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

    std::optional<Events> events;
    if (call.stream) {
        events.emplace(exchange.events());
        events->queue_response("response.created", response_json(response, call, truncated, nullptr));
        co_await exchange.events().flush();
    }
    auto announce = [&] {
        events->queue_response("response.in_progress", response_json(response, call, truncated, nullptr));
        json::object item = item_json(response.output);
        item["content"] = json::array();
        json::object added;
        added["output_index"] = 0;
        added["item"] = std::move(item);
        events->queue("response.output_item.added", std::move(added));
        json::object part = events->about(response.output);
        part["part"] = text_part("");
        events->queue("response.content_part.added", std::move(part));
    };

    // Text as it comes.
    Checkpoints checkpoints(app, identity);
    std::string text;
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
                events->queue_response("response.queued", std::move(queued));
            }
            co_await exchange.events().flush();
            sent = std::chrono::steady_clock::now();
        }
        if (!text.empty()) {
            response.output.content += text;
            if (call.stream) {
                json::object data = events->about(response.output);
                data["delta"] = text;
                data["logprobs"] = json::array();
                events->queue("response.output_text.delta", std::move(data));
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

    // Commit the answer, then say so.
    GenerationRun::Finish finish = run->finish();
    run.reset();
    settle(app, response, finish);
    if (finish.reason == FinishReason::error) log_error(response.id + ": " + finish.message);
    if (call.store) co_await app.storage.call([&](SessionStore& store) { store.finish_response(identity, response); });
    json::object last = response_json(response, call, truncated, &finish.usage);
    if (!call.stream) {
        co_await exchange.respond(json_response(last));
        co_return;
    }
    if (response.status != ResponseStatus::failed) {
        json::object done = events->about(response.output);
        done["text"] = response.output.content;
        done["logprobs"] = json::array();
        events->queue("response.output_text.done", std::move(done));
        json::object part = events->about(response.output);
        part["part"] = text_part(response.output.content);
        events->queue("response.content_part.done", std::move(part));
        json::object item;
        item["output_index"] = 0;
        item["item"] = item_json(response.output);
        events->queue("response.output_item.done", std::move(item));
    }
    events->queue_response(response.status == ResponseStatus::completed    ? "response.completed"
                           : response.status == ResponseStatus::incomplete ? "response.incomplete"
                                                                           : "response.failed",
                           std::move(last));
    co_await exchange.events().flush();
}

Answer get_response(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    const std::string& id = exchange.request().path_parameters.at(0);
    if (exchange.request().query.contains("stream") && exchange.request().query["stream"] != "false")
        throw bad_parameter("stream", "'stream' isn't supported here.", "unsupported_parameter");
    std::optional<Response> found = co_await app.storage.call([&](SessionStore& store) { return store.response(identity, id); });
    if (!found) throw no_response(id, "response_id");
    co_await exchange.respond(json_response(response_json(*found)));
}

Answer delete_response(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    const std::string& id = exchange.request().path_parameters.at(0);
    Application::Busy busy(app, identity, id);
    bool removed = co_await app.storage.call([&](SessionStore& store) { return store.remove_response(identity, id); });
    if (!removed) throw no_response(id, "response_id");
    json::object out;
    out["id"] = id;
    out["object"] = "response";
    out["deleted"] = true;
    co_await exchange.respond(json_response(out));
}

}  // namespace glmd::endpoints
