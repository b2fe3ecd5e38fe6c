// A stream that ends without a final event is an error, however good the text looked: the daemon died or was cut off.
#include "cli/respond.h"

#include <algorithm>

namespace glmd {

Answer respond(Client& client, const Terminal& terminal, const json::object& request,
               const std::function<void(std::string_view)>& on_text) {
    Answer answer;
    with_loading_wait(terminal, [&] {
        bool finished = false;
        Spinner spinner(terminal);
        spinner.say("thinking");
        client.stream(
            "/v1/responses", request,
            [&](std::string_view event, const json::object& data) {
                if (event == "response.output_text.delta") {
                    const std::string delta = text_of(data, "delta");
                    if (delta.empty()) return;
                    spinner.clear();
                    answer.text += delta;
                    on_text(delta);
                } else if (event == "glm.model.loading") {
                    spinner.say(describe_loading(data));
                } else if (event == "glm.compaction.in_progress") {
                    spinner.say("summarizing older messages");
                } else if (event == "glm.compaction.completed") {
                    answer.compacted = true;
                } else if (event == "response.queued") {
                    spinner.say("waiting for others' requests");
                } else if (event == "response.in_progress" || event == "response.created") {
                    spinner.say("thinking");
                } else if (event == "response.completed" || event == "response.incomplete" || event == "response.failed") {
                    finished = true;
                    const json::object* response = object_of(data, "response");
                    if (!response) return;
                    answer.response = *response;
                    if (const json::object* error = object_of(*response, "error"); error && event == "response.failed")
                        throw ApiError(0, text_of(*error, "code"), text_of(*error, "message", "the daemon failed to answer"));
                    if (event == "response.failed") throw CliError(Exit::error, "the daemon failed to answer");
                    answer.incomplete = event == "response.incomplete";
                    if (const json::object* details = object_of(*response, "incomplete_details"))
                        answer.incomplete_reason = text_of(*details, "reason");
                    if (const json::object* usage = object_of(*response, "usage")) {
                        answer.input_tokens = number_of(*usage, "input_tokens");
                        answer.output_tokens = number_of(*usage, "output_tokens");
                    }
                    if (const json::object* glm = object_of(*response, "glm"))
                        answer.truncated_items = number_of(*glm, "truncated_items");
                }
            },
            // Once text flows the line belongs to it.
            [&] { if (answer.text.empty()) spinner.tick(); });
        if (!finished) throw CliError(Exit::error, "the daemon closed the connection before the answer was complete");
    });
    return answer;
}

std::string session_path(const std::string& id) {
    const bool good = !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    });
    if (!good) throw CliError(Exit::usage, "not a session's id: " + id + " (glm session list shows them)");
    return "/v1/conversations/" + id;
}

std::string url_escaped(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '~') out += c;
        else out += {'%', "0123456789ABCDEF"[static_cast<unsigned char>(c) >> 4], "0123456789ABCDEF"[c & 15]};
    }
    return out;
}

json::array list_sessions(Client& client, const std::string& filter) {
    json::array all;
    std::string after;
    for (int page = 0; page < 1000; ++page) {
        const json::value value = client.get("/v1/conversations?limit=100" + filter + (after.empty() ? "" : "&after=" + after));
        const json::object& list = as_object(value);
        const json::array* data = array_of(list, "data");
        if (!data || data->empty()) break;
        for (const json::value& entry : *data)
            if (entry.is_object()) all.push_back(entry);
        const json::value* more = list.if_contains("has_more");
        const std::string last = data->back().is_object() ? text_of(data->back().get_object(), "id") : "";
        if (!more || !more->is_bool() || !more->get_bool() || last.empty() || last == after) break;
        session_path(last);  // it goes into the next URL
        after = last;
    }
    const auto updated = [](const json::value& value) {
        const json::object& session = value.get_object();
        const json::object* glm = object_of(session, "glm");
        const std::int64_t created = number_of(session, "created_at");
        return glm ? number_of(*glm, "updated_at", created) : created;
    };
    std::stable_sort(all.begin(), all.end(),
                     [&](const json::value& a, const json::value& b) { return updated(a) > updated(b); });
    return all;
}

std::string resolve_session(Client& client, const std::string& name) {
    if (name != "last") {
        session_path(name);
        return name;
    }
    const json::array all = list_sessions(client);
    if (all.empty()) throw CliError(Exit::error, "there is no session yet");
    return text_of(all.front().get_object(), "id");
}

void each_item(Client& client, const std::string& id, const std::function<void(const json::object&)>& each) {
    std::string after;
    for (;;) {
        const json::value value =
            client.get(session_path(id) + "/items?order=asc&limit=100" + (after.empty() ? "" : "&after=" + after));
        const json::object& list = as_object(value);
        const json::array* data = array_of(list, "data");
        if (!data || data->empty()) return;
        for (const json::value& item : *data)
            if (item.is_object()) each(item.get_object());
        const json::value* more = list.if_contains("has_more");
        const std::string last = data->back().is_object() ? text_of(data->back().get_object(), "id") : "";
        if (!more || !more->is_bool() || !more->get_bool() || last.empty() || last == after) return;
        session_path(last);
        after = last;
    }
}

std::string item_text(const json::object& item) {
    const json::value* content = item.if_contains("content");
    if (const json::object* glm = object_of(item, "glm"); glm && !content) return text_of(*glm, "summary");
    if (!content) return {};
    if (content->is_string()) return std::string(content->get_string());
    std::string text;
    if (const json::array* parts = content->if_array())
        for (const json::value& part : *parts)
            if (part.is_object()) text += text_of(part.get_object(), "text");
    return text;
}

}  // namespace glmd
