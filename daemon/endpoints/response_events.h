#pragma once
// What the answer to POST /v1/responses is made of, whether its client waits for it or not: JSON, typed events, checkpoints.
#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/answer_format.h"
#include "daemon/endpoints/endpoints.h"
#include "daemon/generation.h"
#include "daemon/log.h"
#include "daemon/tools.h"
#include "engine/sampler.h"

namespace glmd::endpoints {

/// What a request for a response said.
struct ResponseCall {
    std::vector<Item> input;
    std::string conversation, previous, instructions, metadata = "{}", truncation = "disabled";
    std::optional<std::string> model;
    bool store = true, stream = false, background = false, speculate = true;
    std::optional<int> compact_threshold;  // older turns are summarized when the prompt has more tokens; 0: when it nears the context
    std::optional<Item> compaction;        // that was made then
    int max_output_tokens = 0;
    AnswerFormat format;
    ToolUse tools;
    SamplingOptions sampling;
    ServiceClass service_class = ServiceClass::normal;
    std::vector<std::string> stop;
};

/// Throws HttpError 400.
ResponseCall read_call(const json::object& body, bool needs_input = true);
/// What was said before, oldest first. Throws HttpError 404.
asio::awaitable<std::vector<Item>> history_of(Application& app, const Identity& identity, const ResponseCall& call);
/// All that the model is to see.
std::vector<ChatMessage> messages_of(const ResponseCall& call, const std::vector<Item>& history, const ChatTemplate& chat);

std::string_view status_name(ResponseStatus status);
json::object response_json(const Response& response);
/// Puts them into the text of an item as item_json() has it.
void add_logprobs(json::value& item, const json::array& logprobs);
/// With what only the request knew; usage may be null.
json::object response_json(const Response& response, const ResponseCall& call, std::size_t truncated, const Usage* usage);
/// Status, reason and counts of a generation that ended.
void settle(Application& app, Response& response, const GenerationRun::Finish& finish);
HttpError no_response(const std::string& id, const char* param);

/// Typed events with their running number.
class ResponseEvents {
public:
    /// Events before `first` are counted, but not sent.
    explicit ResponseEvents(EventStream& stream, std::int64_t first = 0) : stream_(stream), first_(first) {}

    /// created, queued, in_progress, and the last one.
    void response(const char* type, const json::object& response);
    void item_added(const Item& item);
    void part_added(const Item& item);
    void delta(const Item& item, std::string_view text, json::array logprobs = {});
    /// What is new in an answer that may call functions; opens and closes items as it goes. `logprobs`: of all the text.
    void pieces(const Item& item, const std::string& text, const std::vector<ToolCall>& calls, const std::vector<CallingAnswer::Piece>& pieces,
                const json::array& logprobs = {});
    /// text.done, part.done, item.done, and completed, incomplete or failed.
    void end(const Response& response, const json::object& last, const json::array& logprobs = {});

    /// Goes on with this number, if it is a later one.
    void skip_to(std::int64_t number) { number_ = std::max(number_, number); }

private:
    template <class MakeData>
    void event(const char* type, MakeData make_data);
    void text_done(const Item& text, const json::array& logprobs = {});
    EventStream& stream_;
    std::int64_t number_ = 0, first_ = 0;
    bool text_open_ = false;
    std::size_t calls_at_ = 0;  // output_index of the first call
};

inline constexpr std::chrono::milliseconds checkpoint_interval{500};

/// One write at a time, never waited for: a slow disk must not hold up a stream.
class ResponseCheckpoints {
public:
    ResponseCheckpoints(Application& app, const Identity& identity) : app_(app), identity_(identity), last_(std::chrono::steady_clock::now()) {}
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

}  // namespace glmd::endpoints
