// Long texts in few words. Without `background` a summary ends with its client; whatever happens, the answers of its finished steps stay,
// and the same request goes on from them. `store: false` keeps nothing.
#include <algorithm>
#include <span>

#include "daemon/endpoints/endpoints.h"
#include "daemon/endpoints/summary_job.h"
#include "daemon/parameters.h"
#include "storage/summary_store.h"

namespace glmd::endpoints {
namespace {

constexpr std::size_t most_texts = 4096;
constexpr int most_words = 100000;
constexpr std::string_view length_names[] = {"sentence", "short", "medium", "long"};  // in the order of SummaryLength
constexpr std::string_view strategy_names[] = {"map_reduce", "refine"};

struct Request {
    SummaryCall call;
    std::optional<std::string> model;
    bool stream = false;
};

std::vector<std::string> read_texts(const json::value* input) {
    if (!input) throw bad_parameter("input", "'input' is missing.", "missing_required_parameter");
    std::vector<std::string> texts;
    const auto add = [&](const json::value& one) {
        if (!one.is_string()) throw bad_parameter("input", "'input' must be a text or an array of texts.", "invalid_type");
        texts.emplace_back(one.get_string());
        if (texts.back().find('\0') != std::string::npos) throw bad_parameter("input", "'input' has zero bytes: it isn't text.");
    };
    if (input->is_array()) {
        if (input->get_array().size() > most_texts) throw bad_parameter("input", "'input' has at most " + std::to_string(most_texts) + " texts.");
        for (const json::value& one : input->get_array()) add(one);
    } else {
        add(*input);
    }
    const auto blank = [](const std::string& text) { return text.find_first_not_of(" \t\r\n\f\v") == text.npos; };
    if (std::all_of(texts.begin(), texts.end(), blank)) throw bad_parameter("input", "'input' is empty.");
    return texts;
}

/// The place of a word in a list.
int chosen(Parameters& parameters, std::string_view name, std::span<const std::string_view> words, int standard) {
    const std::optional<std::string> given = parameters.text(name);
    if (!given) return standard;
    if (const auto found = std::find(words.begin(), words.end(), *given); found != words.end()) return static_cast<int>(found - words.begin());
    std::string list;
    for (const std::string_view word : words) list += (list.empty() ? "" : ", ") + std::string(word);
    throw bad_parameter(std::string(name), "'" + std::string(name) + "' must be one of: " + list + ".");
}

Request read_request(const json::object& body) {
    Parameters parameters(body);
    Request request;
    SummaryCall& call = request.call;
    request.model = parameters.text("model");
    call.texts = read_texts(parameters.any("input"));
    call.options.type = static_cast<SummaryType>(chosen(parameters, "type", summary_type_names, 0));
    if (const json::value* length = parameters.any("length"); length && length->is_number()) {
        call.options.words = static_cast<int>(*parameters.integer("length", 1, most_words));
    } else {
        call.options.length = static_cast<SummaryLength>(chosen(parameters, "length", length_names, 2));
        call.length_name = parameters.text("length").value_or("medium");
    }
    call.options.language = parameters.text("language").value_or("");
    call.options.context = parameters.text("context").value_or("");
    call.options.refine = chosen(parameters, "strategy", strategy_names, 0) == 1;
    call.options.part_tokens = static_cast<int>(parameters.integer("chunk_tokens", 160, 1 << 20).value_or(0));
    call.sampling.temperature = static_cast<float>(parameters.number("temperature", 0, 2).value_or(0));
    if (const auto seed = parameters.integer("seed", INT64_MIN, INT64_MAX)) call.sampling.seed = static_cast<std::uint64_t>(*seed);
    call.service_class = ServiceClass::flex;
    if (parameters.any("service_tier")) call.service_class = read_service_tier(parameters);
    call.store = parameters.boolean("store").value_or(true);
    call.background = parameters.boolean("background").value_or(false);
    if (call.background && !call.store) throw bad_parameter("background", "'background' needs 'store'.", "mutually_exclusive_parameters");
    request.stream = parameters.boolean("stream").value_or(false);
    parameters.ignore({"user", "safety_identifier"});
    parameters.finish();
    return request;
}

std::shared_ptr<SummaryJob> running(const Application& app, const Identity& identity, const std::string& id) {
    const auto found = app.summaries.find({identity, id});
    return found == app.summaries.end() ? nullptr : found->second;
}

HttpError no_summary(const std::string& id) { return HttpError(404, "summary_not_found", "There is no summary '" + id + "'.", "summary_id"); }

/// What a crash or a stop cut off says so.
json::object stored_json(const StoredSummary& stored) {
    json::object out = json::parse(stored.body).as_object();
    if (!stored.open) return out;
    out["status"] = "incomplete";
    out["incomplete_details"] = json::object{{"reason", "interrupted"}};
    out.erase("progress");
    return out;
}

asio::awaitable<json::object> stored(Application& app, const Identity& identity, const std::string& id) {
    const std::optional<StoredSummary> found = co_await app.storage.call([&](SessionStore& store) { return store.summaries().find(identity, id); });
    if (!found) throw no_summary(id);
    co_return stored_json(*found);
}

}  // namespace

Answer create_summary(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    Request request = read_request(parse_body(exchange.request().body));
    exchange.request().body.clear();
    LoadWaiter waiter{exchange, request.stream};
    std::shared_ptr<Engine> engine = co_await app.require_engine(request.model, identity, &waiter);
    {
        GenerationRequest mine;
        mine.service_class = request.call.service_class;
        assign(app, identity, mine);
        request.call.service_class = mine.service_class;
        require_queue(app, *engine, mine);
    }
    request.call.model = model_id_of(engine->model().path);
    const bool background = request.call.background;
    const auto job = std::make_shared<SummaryJob>(app, identity, std::move(request.call));
    co_await job->prepare(std::move(engine));
    job->start();
    if (request.stream) {
        co_await SummaryJob::follow(job, exchange, !background);
        co_return;
    }
    if (!background) {
        co_await SummaryJob::until_finished(job, exchange, true);
        job->throw_failure();
    }
    co_await exchange.respond(json_response(job->json()));
}

Answer get_summary(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    const std::string& id = exchange.request().path_parameters.at(0);
    const auto& query = exchange.request().query;
    const auto wanted = query.find("stream");
    const bool stream = wanted != query.end() && wanted->second != "false";
    if (const auto job = running(app, identity, id)) {
        if (stream) co_await SummaryJob::follow(job, exchange, false);
        else co_await exchange.respond(json_response(job->json()));
        co_return;
    }
    json::object summary = co_await stored(app, identity, id);
    if (!stream) {
        co_await exchange.respond(json_response(summary));
        co_return;
    }
    json::object last;
    last["type"] = summary["status"] == "completed" ? "glm.summary.completed" : "glm.summary.incomplete";
    const std::string type(last["type"].get_string());
    last["sequence_number"] = 0;
    last["summary"] = std::move(summary);
    exchange.events().queue(type, json::serialize(last));
    co_await exchange.events().flush();
}

Answer cancel_summary(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    const std::string& id = exchange.request().path_parameters.at(0);
    if (const auto job = running(app, identity, id)) {
        job->cancel();
        co_await SummaryJob::until_finished(job, exchange, false);
        co_await exchange.respond(json_response(job->json()));
        co_return;
    }
    const json::object summary = co_await stored(app, identity, id);
    co_await exchange.respond(json_response(summary));
}

Answer delete_summary(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    const std::string& id = exchange.request().path_parameters.at(0);
    if (running(app, identity, id)) throw HttpError(409, "summary_busy", "The summary '" + id + "' is still being made; cancel it first.", "summary_id", 1);
    const bool removed = co_await app.storage.call([&](SessionStore& store) { return store.summaries().remove(identity, id); });
    if (!removed) throw no_summary(id);
    co_await exchange.respond(json_response(deleted_json(id, "glm.summary")));
}

Answer delete_summaries(Application& app, Exchange& exchange) {
    const Identity& identity = exchange.request().identity;
    co_await app.storage.call([&](SessionStore& store) { store.summaries().forget(identity); });
    json::object out;
    out["object"] = "glm.summary.list";
    out["deleted"] = true;
    co_await exchange.respond(json_response(out));
}

}  // namespace glmd::endpoints
