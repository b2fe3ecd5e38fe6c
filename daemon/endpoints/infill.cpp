// A text with blanks in it, filled from left to right: one generation per blank, each of which waits its turn in the engine.
// Nothing is stored. Special tokens in the text are only text, but for the marks of its blanks.
#include "daemon/endpoints/completion_stream.h"
#include "daemon/messages.h"

namespace glmd::endpoints {
namespace {

constexpr int short_answer = 64, long_answer = 512;  // tokens, where the request doesn't say

struct Call {
    BlankText text;
    int max_tokens = 0;
    bool stream = false;
    GenerationRequest request;
};

Call read_call(const json::object& body, std::optional<std::string>& model) {
    Parameters parameters(body);
    Call call;
    model = parameters.text("model");
    const auto text = parameters.text("text");
    if (!text) throw bad_parameter("text", "'text' is missing.", "missing_required_parameter");
    const auto mark = parameters.text("mask");
    if (mark && (mark->empty() || mark->size() > 64)) throw bad_parameter("mask", "'mask' has 1 to 64 bytes.");
    call.text = cut_at_blanks(*text, mark.value_or(""));
    if (call.text.kinds.empty())
        throw bad_parameter("text", "'text' has no blank: write " + (mark ? "'" + *mark + "'" : "[MASK], [sMASK] or [gMASK]") + " where text is missing.");
    call.max_tokens = static_cast<int>(parameters.integer("max_tokens", 1, 1 << 24).value_or(0));
    call.stream = parameters.boolean("stream").value_or(false);
    call.request.sampling = read_sampling(parameters);
    call.request.speculate = parameters.boolean("speculation").value_or(true);
    call.request.service_class = read_service_tier(parameters);
    parameters.ignore({"user"});
    parameters.finish();
    return call;
}

void require_blanks(const Engine& engine, const std::string& model, const BlankText& text) {
    const auto& rules = engine.model().blanks;
    if (!rules)
        throw HttpError(400, "unsupported_model", "The model '" + model + "' can't fill blanks. GLM, GLM-130B and ChatGLM-6B can.", "model");
    for (const BlankKind kind : text.kinds)
        if (rules->id(kind) < 0)
            throw bad_parameter("text", "The model '" + model + "' has no " + std::string(blank_names[static_cast<std::size_t>(kind)]) + ".");
}

/// Events with their running number, or nothing at all.
class Events {
public:
    Events(Exchange& exchange, bool wanted) : stream_(wanted ? &exchange.events() : nullptr) {}
    asio::awaitable<void> send(const char* type, json::object data) {
        data["type"] = type;
        data["sequence_number"] = number_++;
        if (!stream_) co_return;
        stream_->queue(type, json::serialize(data));
        co_await stream_->flush();
    }
    asio::awaitable<void> keep_alive() {
        if (stream_) co_await stream_->keep_alive();
    }
    explicit operator bool() const { return stream_; }

private:
    EventStream* stream_;
    int number_ = 0;
};

void add(Usage& sum, const Usage& usage) {
    sum.prompt_tokens += usage.prompt_tokens;
    sum.cached_tokens += usage.cached_tokens;
    sum.completion_tokens += usage.completion_tokens;
    sum.drafted_tokens += usage.drafted_tokens;
    sum.accepted_tokens += usage.accepted_tokens;
    sum.queue_s += usage.queue_s;
    sum.prefill_s += usage.prefill_s;
    sum.decode_s += usage.decode_s;
}

}  // namespace

Answer create_infill(Application& app, Exchange& exchange) {
    std::optional<std::string> model;
    Call call = read_call(parse_body(exchange.request().body), model);
    LoadWaiter waiter{exchange, call.stream};
    const std::shared_ptr<Engine> engine = co_await app.require_engine(model, exchange.request().identity, &waiter);
    assign(app, exchange.request().identity, call.request);
    require_blanks(*engine, model_id_of(engine->model().path), call.text);
    require_queue(app, *engine, call.request);
    Infill infill = co_await run_on(app.text_pool, [&] { return Infill(*engine->model().blanks, engine->tokenizer(), call.text); });
    const int context = engine->model().context;
    if (infill.room(context) < 1)
        throw HttpError(400, "context_length_exceeded", "The model's context is " + std::to_string(context) +
                        " tokens; the text and one token for each of its blanks don't fit.", "text");

    json::object out;
    out["id"] = new_id("infill_");
    out["object"] = "glm.infill";
    out["created"] = unix_now();
    out["model"] = model_id_of(engine->model().path);
    std::string text = call.text.texts.front();
    json::array blanks;
    Usage usage;
    Events events(exchange, call.stream);
    co_await events.send("glm.infill.created", out);
    for (std::size_t i = 0; i < call.text.kinds.size(); ++i) {
        const BlankKind kind = call.text.kinds[i];
        const int wanted = call.max_tokens ? call.max_tokens : kind == BlankKind::passage ? long_answer : short_answer;
        GenerationRequest request = call.request;
        request.prompt = infill.prompt();
        request.blanks = infill.rows();
        request.max_tokens = std::min(wanted, infill.room(context));
        if (request.sampling.seed) *request.sampling.seed += i;  // else the blanks would be drawn alike
        GenerationRun run(app, engine, std::move(request), &exchange);
        std::string answer, piece;
        bool skip = text.empty() || text.back() == ' ' || text.back() == '\n' || text.back() == '\t';  // the answer's own blank
        for (bool more = true; more;) {
            more = co_await run.next(piece, std::chrono::steady_clock::now() + keep_alive_interval);
            const bool silent = piece.empty();
            if (skip) piece.erase(0, std::min(piece.find_first_not_of(' '), piece.size()));
            if (!piece.empty()) {
                skip = false;
                answer += piece;
                json::object delta;
                delta["blank"] = i;
                delta["delta"] = piece;
                co_await events.send("glm.infill.delta", std::move(delta));
            } else if (more && silent) {
                co_await events.keep_alive();
            }
        }
        const GenerationRun::Finish& finish = run.finish();
        json::object blank;
        blank["index"] = i;
        blank["mask"] = blank_names[static_cast<std::size_t>(kind)];
        blank["text"] = answer;
        blank["finish_reason"] = finish_name(app, finish);
        blanks.push_back(std::move(blank));
        infill.fill(finish.tokens, finish.reason == FinishReason::length);
        text += answer + call.text.texts[i + 1];
        add(usage, finish.usage);
    }
    out["text"] = text;
    out["blanks"] = std::move(blanks);
    out["usage"] = usage_json(usage);
    out["glm"] = timing_json(usage);
    if (!events) {
        co_await exchange.respond(json_response(out));
        co_return;
    }
    json::object last;
    last["infill"] = std::move(out);
    co_await events.send("glm.infill.completed", std::move(last));
}

}  // namespace glmd::endpoints
