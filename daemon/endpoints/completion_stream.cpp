// Nothing is stored here. A cancelled generation has no honest finish_reason in this API: its client is gone, or the
// service is stopping, which ends the stream with an error.
#include "daemon/endpoints/completion_stream.h"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "daemon/logprobs.h"
#include "daemon/messages.h"

namespace glmd::endpoints {
namespace {

constexpr int most_choices = 16, most_logprobs = 20;

/// Answers to one prompt, of which the first one's keys and values are the others' too. A peer that leaves ends them all.
class Choices {
public:
    Choices(Application& app, Exchange& exchange, std::shared_ptr<Engine> engine, const CompletionCall& call)
        : exchange_(exchange), engine_(engine), chat_(call.chat), logprobs_(call.request.sampling.logprobs),
          wake_(std::make_shared<asio::steady_timer>(app.io)) {
        const auto shared = call.choices > 1 ? std::make_shared<PromptGroup>() : nullptr;
        for (int i = 0; i < call.choices; ++i) {
            GenerationRequest request = call.request;
            request.group = shared;
            if (request.sampling.seed) *request.sampling.seed += std::uint64_t(i);
            choices_.push_back({std::make_unique<GenerationRun>(app, engine, std::move(request), nullptr, wake_)});
        }
        const auto cancel = [this] { for (Choice& c : choices_) c.run->cancel(); };
        if (exchange.disconnected()) cancel();
        exchange.on_disconnect(cancel);
    }
    ~Choices() { exchange_.on_disconnect({}); }
    Choices(const Choices&) = delete;
    Choices& operator=(const Choices&) = delete;

    struct Choice {
        std::unique_ptr<GenerationRun> run;
        std::string text;       // since the last call of next()
        bool finished = false, ended = false;  // ended: with this call
        std::size_t offset = 0;
    };
    std::vector<Choice>& all() { return choices_; }

    /// Until there is something new of any, or the time is up; false: all have finished.
    asio::awaitable<bool> next(std::chrono::steady_clock::time_point until) {
        for (;;) {
            bool news = false, open = false;
            for (Choice& c : choices_) {
                c.text.clear();
                c.ended = false;
                if (c.finished) continue;
                c.ended = c.finished = !co_await c.run->next(c.text, {});
                news = news || c.finished || !c.text.empty();
                open = open || !c.finished;
            }
            if (news || !open || std::chrono::steady_clock::now() >= until) co_return open;
            wake_->expires_at(until);  // no wake-up is lost: see GenerationRun::next()
            boost::system::error_code ignored;
            co_await wake_->async_wait(asio::redirect_error(asio::use_awaitable, ignored));
        }
    }

    /// Of the tokens since the last call; null where they weren't asked for.
    json::value logprobs(Choice& c) const {
        if (!logprobs_) return nullptr;
        const std::vector<SampledToken> tokens = c.run->take_logprobs();
        if (!chat_) return completion_logprobs_json(engine_->tokenizer(), tokens, c.offset);
        return json::object{{"content", logprobs_json(engine_->tokenizer(), tokens)}, {"refusal", nullptr}};
    }

    /// The prompt counts once.
    Usage usage() const {
        Usage sum = choices_.front().run->finish().usage;
        for (std::size_t i = 1; i < choices_.size(); ++i) {
            const Usage& u = choices_[i].run->finish().usage;
            sum.completion_tokens += u.completion_tokens;
            sum.drafted_tokens += u.drafted_tokens;
            sum.accepted_tokens += u.accepted_tokens;
            sum.decode_s = std::max(sum.decode_s, u.decode_s);
        }
        return sum;
    }

private:
    Exchange& exchange_;
    std::shared_ptr<Engine> engine_;
    bool chat_;
    std::optional<int> logprobs_;
    std::shared_ptr<asio::steady_timer> wake_;
    std::vector<Choice> choices_;
};

}  // namespace

CompletionCall read_completion(Parameters& parameters, bool chat) {
    CompletionCall call;
    call.chat = chat;
    call.id = new_id(chat ? "chatcmpl-" : "cmpl-");
    call.created = unix_now();
    call.stream = parameters.boolean("stream").value_or(false);
    if (const json::object* object = parameters.object("stream_options")) {
        Parameters options(*object, "stream_options");
        call.include_usage = options.boolean("include_usage").value_or(false);
        options.ignore({"include_obfuscation"});
        options.finish();
    }
    call.request.sampling = read_sampling(parameters);
    call.request.speculate = parameters.boolean("speculation").value_or(true);
    call.request.stop = read_stop(parameters);
    call.request.max_tokens = read_max_tokens(parameters, {"max_tokens", "max_completion_tokens", "max_output_tokens"});
    call.choices = int(parameters.integer("n", 1, most_choices).value_or(1));
    parameters.only("best_of", {"1"});
    call.request.service_class = read_service_tier(parameters);
    if (chat) {
        const auto top = parameters.integer("top_logprobs", 0, most_logprobs);
        if (parameters.boolean("logprobs").value_or(false)) call.request.sampling.logprobs = int(top.value_or(0));
        else if (top.value_or(0) > 0) throw bad_parameter("top_logprobs", "'top_logprobs' needs 'logprobs'.");
    } else if (const auto count = parameters.integer("logprobs", 0, most_logprobs)) {
        call.request.sampling.logprobs = int(*count);
    }
    parameters.ignore({"user", "safety_identifier", "prompt_cache_key"});
    return call;
}

json::object usage_json(const Usage& usage) {
    json::object out;
    out["prompt_tokens"] = usage.prompt_tokens;
    out["completion_tokens"] = usage.completion_tokens;
    out["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
    json::object details;
    details["cached_tokens"] = usage.cached_tokens;
    out["prompt_tokens_details"] = std::move(details);
    return out;
}

json::object timing_json(const Usage& usage) {
    json::object out;
    out["queue_s"] = usage.queue_s;
    out["prefill_s"] = usage.prefill_s;
    out["decode_s"] = usage.decode_s;
    out["drafted_tokens"] = usage.drafted_tokens;
    out["accepted_tokens"] = usage.accepted_tokens;
    return out;
}

const char* finish_name(Application& app, const GenerationRun::Finish& finish) {
    switch (finish.reason) {
        case FinishReason::stop: return "stop";
        case FinishReason::length: return "length";
        case FinishReason::cancelled:
            throw HttpError(503, app.stopping ? "stopping" : "cancelled", app.stopping ? "The service is stopping." : "The generation was cancelled.", "", 2);
        case FinishReason::deadline: throw HttpError(503, "deadline", "The deadline has passed.");
        case FinishReason::error: break;
    }
    throw HttpError(500, "engine_error", finish.message.empty() ? "The engine failed." : finish.message);
}

namespace {

const char* finish_name(Application& app, const GenerationRun::Finish& finish, const CallingAnswer& answer) {
    const char* name = endpoints::finish_name(app, finish);
    return finish.reason == FinishReason::stop && !answer.calls().empty() ? "tool_calls" : name;
}

json::object envelope(const CompletionCall& call, const char* object) {
    json::object out;
    out["id"] = call.id;
    out["object"] = object;
    out["created"] = call.created;
    out["model"] = call.model;
    out["service_tier"] = service_tier_name(call.request.service_class);
    return out;
}

/// One choice; finish is null while it goes on.
json::object choice_json(std::size_t index, const char* field, json::value content, json::value logprobs, const char* finish) {
    json::object choice;
    choice["index"] = index;
    choice[field] = std::move(content);
    choice["logprobs"] = std::move(logprobs);
    if (finish) choice["finish_reason"] = finish; else choice["finish_reason"] = nullptr;
    return choice;
}

std::string chunk(const CompletionCall& call, std::size_t index, json::value content, json::value logprobs, const char* finish) {
    json::object out = envelope(call, call.chat ? "chat.completion.chunk" : "text_completion");
    json::array choices;
    choices.push_back(choice_json(index, call.chat ? "delta" : "text", std::move(content), std::move(logprobs), finish));
    out["choices"] = std::move(choices);
    if (call.include_usage) out["usage"] = nullptr;
    return json::serialize(out);
}

}  // namespace

asio::awaitable<void> answer_completion(Application& app, Exchange& exchange, std::shared_ptr<Engine> engine, CompletionCall call) {
    call.model = model_id_of(engine->model().path);
    call.request.max_tokens = fit_max_tokens(*engine, call.request.prompt.size(), call.request.max_tokens, call.chat ? "messages" : "prompt");
    Choices choices(app, exchange, engine, call);
    call.request.prompt.clear();
    std::vector<Choices::Choice>& all = choices.all();
    std::vector<CallingAnswer> answers(all.size(), CallingAnswer(call.tools, call.format, engine->chat_template()));
    const auto soon = [] { return std::chrono::steady_clock::now() + keep_alive_interval; };
    if (!call.stream) {
        for (bool more = true; more;) {
            more = co_await choices.next(soon());
            for (std::size_t i = 0; i < all.size(); ++i) answers[i].push(all[i].text, all[i].ended);
        }
        json::object out = envelope(call, call.chat ? "chat.completion" : "text_completion");
        json::array array;
        for (std::size_t i = 0; i < all.size(); ++i) {
            const char* finish = finish_name(app, all[i].run->finish(), answers[i]);
            json::value content = call.chat ? json::value(answers[i].message()) : json::value(answers[i].text());
            array.push_back(choice_json(i, call.chat ? "message" : "text", std::move(content), choices.logprobs(all[i]), finish));
        }
        out["choices"] = std::move(array);
        out["usage"] = usage_json(choices.usage());
        out["glm"] = timing_json(choices.usage());
        co_await exchange.respond(json_response(out));
        co_return;
    }
    EventStream& events = exchange.events();
    for (std::size_t i = 0; call.chat && i < all.size(); ++i)
        events.queue("", chunk(call, i, json::object{{"role", "assistant"}, {"content", ""}}, nullptr, nullptr));
    co_await events.flush();
    for (bool more = true; more;) {
        more = co_await choices.next(soon());
        bool silent = true;
        for (std::size_t i = 0; i < all.size(); ++i) {
            if (all[i].text.empty() && !all[i].ended) continue;
            silent = false;
            const auto pieces = answers[i].push(all[i].text, all[i].ended);
            json::value logprobs = pieces.empty() ? nullptr : choices.logprobs(all[i]);  // with the first piece of their text
            for (const auto& p : pieces)
                if (p.kind != ToolCallReader::Event::Kind::end)
                    events.queue("", chunk(call, i, call.chat ? json::value(answers[i].delta(p)) : json::value(p.text), std::exchange(logprobs, nullptr), nullptr));
            if (all[i].ended) {
                json::value rest = pieces.empty() ? choices.logprobs(all[i]) : json::value();
                events.queue("", chunk(call, i, call.chat ? json::value(json::object()) : json::value(""), std::move(rest),
                                       finish_name(app, all[i].run->finish(), answers[i])));
            }
        }
        if (silent && more) co_await events.keep_alive();
        else co_await events.flush();
    }
    if (call.include_usage) {
        json::object out = envelope(call, call.chat ? "chat.completion.chunk" : "text_completion");
        out["choices"] = json::array();
        out["usage"] = usage_json(choices.usage());
        out["glm"] = timing_json(choices.usage());
        events.queue("", json::serialize(out));
    }
    events.queue("", "[DONE]");
    co_await events.flush();
}

}  // namespace glmd::endpoints
