// A response's status and events are OpenAI's; what the store keeps of a response is shown the same way whoever asks, and the
// request's own parameters are added where they are still known.
#include "daemon/endpoints/response_events.h"

#include <cmath>

#include "daemon/endpoints/compaction.h"
#include "daemon/endpoints/completion_stream.h"
#include "daemon/messages.h"
#include "daemon/parameters.h"

namespace glmd::endpoints {
namespace {

json::value text_or_null(const std::string& text) { return text.empty() ? json::value(nullptr) : json::value(text); }

json::object text_part(const std::string& text) {
    json::object part;
    part["type"] = "output_text";
    part["text"] = text;
    part["annotations"] = json::array();
    part["logprobs"] = json::array();
    return part;
}

json::object about(const Item& item, const char* key, json::value value) {
    return {{"item_id", item.id}, {"output_index", 0}, {"content_index", 0}, {key, std::move(value)}};
}

}  // namespace

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

json::object response_json(const Response& response) {
    json::object out;
    out["id"] = response.id;
    out["object"] = "response";
    out["created_at"] = response.created_at;
    out["status"] = status_name(response.status);
    out["background"] = response.background;
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
    if (response.status != ResponseStatus::in_progress || !response.output.content.empty()) add_item_json(output, response.output);
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

void add_logprobs(json::value& item, const json::array& logprobs) {
    item.at("content").at(0).as_object()["logprobs"] = logprobs;
}

json::object response_json(const Response& response, const ResponseCall& call, std::size_t truncated, const Usage* usage) {
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
    if (call.compaction) glm["compaction"] = compaction_json(*call.compaction);
    if (!glm.empty()) out["glm"] = std::move(glm);
    return out;
}

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

template <class MakeData>
void ResponseEvents::event(const char* type, MakeData make_data) {
    const std::int64_t number = number_++;
    if (number < first_) return;
    json::object data = make_data();
    data["type"] = type;
    data["sequence_number"] = number;
    stream_.queue(type, json::serialize(data));
}

void ResponseEvents::response(const char* type, const json::object& response) {
    event(type, [&] { return json::object{{"response", response}}; });
}

void ResponseEvents::item_added(const Item& item) {
    event("response.output_item.added", [&] {
        json::object added = item_json(item);
        added["status"] = glmd::status_name(ItemStatus::in_progress);
        added["content"] = json::array();
        return json::object{{"output_index", 0}, {"item", std::move(added)}};
    });
}

void ResponseEvents::part_added(const Item& item) {
    text_open_ = true;
    event("response.content_part.added", [&] { return about(item, "part", text_part("")); });
}

void ResponseEvents::delta(const Item& item, std::string_view text, json::array logprobs) {
    event("response.output_text.delta", [&] {
        json::object data = about(item, "delta", json::value(text));
        data["logprobs"] = std::move(logprobs);
        return data;
    });
}

void ResponseEvents::pieces(const Item& item, const std::string& said, const std::vector<ToolCall>& calls, const std::vector<CallingAnswer::Piece>& pieces,
                            const json::array& logprobs) {
    using Kind = ToolCallReader::Event::Kind;
    Item text = item;
    text.content = said;
    for (const auto& p : pieces) {
        if (p.kind == Kind::text) {
            if (!text_open_) {
                item_added(text);
                part_added(text);
            }
            delta(text, p.text, p.logprobs);
            continue;
        }
        if (text_open_) {
            text.status = ItemStatus::completed;
            text_done(text, logprobs);
            text_open_ = false;
            calls_at_ = 1;
        }
        const std::size_t index = calls_at_ + p.call;
        json::object call = call_json(item, p.call, calls[p.call], p.kind == Kind::end ? ItemStatus::completed : ItemStatus::in_progress);
        const json::value id = call.at("id");
        if (p.kind == Kind::begin) {
            call["arguments"] = "";
            event("response.output_item.added", [&] { return json::object{{"output_index", index}, {"item", call}}; });
        } else if (p.kind == Kind::arguments) {
            event("response.function_call_arguments.delta", [&] { return json::object{{"item_id", id}, {"output_index", index}, {"delta", p.text}}; });
        } else {
            event("response.function_call_arguments.done",
                  [&] { return json::object{{"item_id", id}, {"output_index", index}, {"name", call.at("name")}, {"arguments", call.at("arguments")}}; });
            event("response.output_item.done", [&] { return json::object{{"output_index", index}, {"item", call}}; });
        }
    }
}

void ResponseEvents::end(const Response& response, const json::object& last, const json::array& logprobs) {
    if (response.status != ResponseStatus::failed && text_open_) {
        Item text = response.output;
        text.content = message_of(text).content;
        text_done(text, logprobs);
    }
    this->response(response.status == ResponseStatus::completed ? "response.completed"
                   : response.status == ResponseStatus::failed  ? "response.failed"
                                                                : "response.incomplete",
                   last);
}

void ResponseEvents::text_done(const Item& text, const json::array& logprobs) {
    event("response.output_text.done", [&] {
        json::object done = about(text, "text", json::value(text.content));
        done["logprobs"] = logprobs;
        return done;
    });
    json::value item = item_json(text);
    add_logprobs(item, logprobs);
    event("response.content_part.done", [&] { return about(text, "part", item.at("content").at(0)); });
    event("response.output_item.done", [&] { return json::object{{"output_index", 0}, {"item", item}}; });
}

}  // namespace glmd::endpoints
