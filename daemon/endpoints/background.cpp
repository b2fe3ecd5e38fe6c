// No event is kept: each follows from the text, whose pieces are numbered, so that a stream can be taken up at any number, from
// memory or from storage, and costs no more memory than the answer. Event 0 is created, 1 queued, 2 in_progress; what follows tells of
// the text, and of each call.
#include "daemon/endpoints/background.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include "daemon/log.h"
#include "daemon/messages.h"

namespace glmd {

using endpoints::ResponseEvents;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t longest_piece = 64;   // bytes
constexpr std::size_t events_at_once = 512; // of one write

bool is_whole(const ToolCall& call) {
    boost::system::error_code error;
    json::parse(call.arguments, error, {}, {.max_depth = 1000});
    return !error;
}

/// What was sent so far.
class Replay {
public:
    Replay(EventStream& stream, std::int64_t first) : events_(stream, first), first_(first) {}

    /// Queues what is known and wasn't sent; true: there is more. `json` makes the response's present one,
    /// which takes a copy of the text.
    bool advance(const Response& response, bool started, bool finished, const std::function<json::object()>& json) {
        const auto unanswered = [&](const char* status) {
            json::object response = json();
            response["status"] = status;
            response["output"] = json::array();
            response["incomplete_details"] = response["error"] = response["usage"] = nullptr;
            return response;
        };
        if (stage_ == Stage::created) {
            const json::object queued = unanswered("queued");
            events_.response("response.created", queued);
            events_.response("response.queued", queued);
            stage_ = Stage::started;
        }
        if (!started && !finished) return false;
        if (stage_ == Stage::started) {
            events_.response("response.in_progress", unanswered("in_progress"));
            stage_ = Stage::answer;
        }
        if (stage_ == Stage::answer) {
            const ChatMessage said = message_of(response.output);
            const std::vector<Piece> pieces = news(said, finished);
            events_.pieces(response.output, said.content, said.calls, pieces);
            if (pieces.size() >= events_at_once) return true;
            if (!finished) return false;
            if (said.content.empty() && said.calls.empty()) {
                events_.item_added(response.output);
                events_.part_added(response.output);
            }
            // What a power cut took can't be sent again; its numbers are passed over.
            if (response.incomplete_reason == "interrupted") events_.skip_to(first_);
            events_.end(response, json());
            stage_ = Stage::ended;
        }
        return false;
    }

private:
    using Piece = CallingAnswer::Piece;
    using Kind = ToolCallReader::Event::Kind;
    enum class Stage { created, started, answer, ended };

    /// The pieces of `text` from at_ on.
    void cut(std::string_view text, bool whole, Piece piece, std::vector<Piece>& out) {
        while (at_ < text.size() && out.size() < events_at_once) {
            const std::size_t end = piece_end(text, at_, whole);
            if (end == text.npos) break;
            piece.text = text.substr(at_, end - at_);
            out.push_back(piece);
            at_ = end;
        }
    }

    std::vector<Piece> news(const ChatMessage& said, bool finished) {
        std::vector<Piece> out;
        if (call_ < 0) {
            cut(said.content, finished || !said.calls.empty(), {Kind::text, 0, {}}, out);
            if (at_ < said.content.size() || said.calls.empty()) return out;
            call_ = 0;
        }
        for (; std::size_t(call_) < said.calls.size() && out.size() < events_at_once; ++call_, begun_ = false) {
            const auto i = std::size_t(call_);
            const ToolCall& call = said.calls[i];
            if (!begun_) {
                out.push_back({Kind::begin, i, call.name});
                at_ = 0;
                begun_ = true;
            }
            // One that was cut off never ends.
            const bool whole = i + 1 < said.calls.size() || (finished && is_whole(call));
            cut(call.arguments, whole || finished, {Kind::arguments, i, {}}, out);
            if (at_ < call.arguments.size() || !whole) break;
            out.push_back({Kind::end, i, {}});
        }
        return out;
    }

    ResponseEvents events_;
    std::int64_t first_;
    Stage stage_ = Stage::created;
    int call_ = -1;       // which is sent; -1: the text
    bool begun_ = false;  // the call
    std::size_t at_ = 0;  // in the text, or in the call's arguments
};

}  // namespace

std::size_t piece_end(std::string_view text, std::size_t at, bool whole) {
    const auto word = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
    const bool wide = static_cast<unsigned char>(text[at]) >= 0x80;
    std::size_t end = at + 1;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) ++end;
    if (wide) return end;
    while (end < text.size() && end - at < longest_piece && word(text[end])) ++end;
    return end == text.size() && !whole && end - at < longest_piece ? text.npos : end;
}

void Background::start(std::unique_ptr<GenerationRun> run, std::vector<Application::Busy> held) {
    run_ = run.get();
    app_.background[{identity_, response_.id}] = shared_from_this();
    asio::co_spawn(app_.io, [self = shared_from_this(), run = std::move(run), held = std::move(held)]() mutable {
        return self->run(std::move(run), std::move(held));
    }, asio::detached);
}

void Background::cancel() {
    if (!run_) return;
    cancelled_ = true;
    run_->cancel();
}

json::object Background::json() const {
    if (finished_) return last_;
    json::object out = endpoints::response_json(response_, call_, truncated_, nullptr);
    if (place_ == 0) return out;
    out["status"] = "queued";
    if (place_ > 0) {
        if (!out.contains("glm")) out["glm"] = json::object();
        out["glm"].get_object()["queue_position"] = place_;
    }
    return out;
}

asio::awaitable<void> Background::run(std::unique_ptr<GenerationRun> run, [[maybe_unused]] std::vector<Application::Busy> held) {
    const auto self = shared_from_this();
    endpoints::ResponseCheckpoints checkpoints(app_, identity_);
    std::string text;
    for (bool more = true; more;) {
        more = co_await run->next(text, checkpoints.next(response_.output.content.size()), place_ == 0 ? nullptr : &place_);
        if (!text.empty() || !more) {
            place_ = 0;
            answer_.push(text, !more);
            response_.output.content = answer_.content();
        }
        if (more) checkpoints.note(response_, response_.output.content.size());
        changes_.note();
    }
    const GenerationRun::Finish finish = run->finish();
    run_ = nullptr;
    run.reset();
    endpoints::settle(app_, response_, finish);
    if (finish.reason == FinishReason::cancelled && cancelled_) {
        response_.status = ResponseStatus::cancelled;
        response_.incomplete_reason.clear();
    }
    if (finish.reason == FinishReason::error) log_error(response_.id + ": " + finish.message);
    try {
        co_await app_.storage.call([this](SessionStore& store) { store.finish_response(identity_, response_); });
    } catch (const std::exception& e) {
        log_error(response_.id + ": " + e.what());
        response_.status = ResponseStatus::failed;
    }
    last_ = endpoints::response_json(response_, call_, truncated_, &finish.usage);
    finished_ = true;
    app_.background.erase({identity_, response_.id});
    changes_.note();
}

asio::awaitable<void> Background::follow(std::shared_ptr<Background> self, Exchange& exchange, std::int64_t first) {
    Replay replay(exchange.events(), first);
    const auto json = [&self] { return self->json(); };
    exchange.on_disconnect([self] { self->changes_.note(); });
    for (;;) {
        const std::uint64_t seen = self->changes_.version();
        const bool finished = self->finished_;
        while (replay.advance(self->response_, self->place_ == 0, finished, json)) co_await exchange.events().flush();
        co_await exchange.events().flush();
        if (finished || exchange.disconnected()) break;
        const auto until = Clock::now() + keep_alive_interval;
        co_await self->changes_.since(seen, until);
        if (self->changes_.version() == seen && Clock::now() >= until) co_await exchange.events().keep_alive();
    }
    exchange.on_disconnect({});
}

asio::awaitable<void> Background::until_finished(std::shared_ptr<Background> self, Exchange& exchange) {
    exchange.on_disconnect([self] { self->changes_.note(); });
    while (!self->finished_ && !exchange.disconnected()) co_await self->changes_.since(self->changes_.version(), Clock::now() + keep_alive_interval);
    exchange.on_disconnect({});
}

asio::awaitable<void> replay(const Response& response, Exchange& exchange, std::int64_t first) {
    Replay replay(exchange.events(), first);
    const auto json = [&response] { return endpoints::response_json(response); };
    while (replay.advance(response, true, true, json)) co_await exchange.events().flush();
    co_await exchange.events().flush();
}

}  // namespace glmd
