#pragma once
// A response that goes on without its client. While it runs it is in Application::background, afterwards in storage; its
// events can be had again from either. I/O thread only.
#include <memory>
#include <string>
#include <string_view>

#include "daemon/changes.h"
#include "daemon/endpoints/response_events.h"

namespace glmd {

class Background : public std::enable_shared_from_this<Background> {
public:
    Background(Application& app, const Identity& identity, Response response, endpoints::ResponseCall call, std::size_t truncated, CallingAnswer answer)
        : app_(app), identity_(identity), response_(std::move(response)), call_(std::move(call)), truncated_(truncated), answer_(std::move(answer)) {}

    /// To the end, on its own; `held` is let go when the answer is stored.
    void start(std::unique_ptr<GenerationRun> run, std::vector<Application::Busy> held);
    /// Ends it within a step; it is stored as cancelled.
    void cancel();
    /// The service stops, and nobody waits for this: it ends within a step as well, and is stored as incomplete.
    void interrupt() {
        if (run_) run_->cancel();
    }
    bool finished() const { return finished_; }
    json::object json() const;

    /// Sends its events from number `first` on, until the last or until the peer is gone.
    static asio::awaitable<void> follow(std::shared_ptr<Background> self, Exchange& exchange, std::int64_t first);
    static asio::awaitable<void> until_finished(std::shared_ptr<Background> self, Exchange& exchange);

private:
    asio::awaitable<void> run(std::unique_ptr<GenerationRun> run, std::vector<Application::Busy> held);

    Application& app_;
    Identity identity_;
    Response response_;
    endpoints::ResponseCall call_;
    std::size_t truncated_;
    CallingAnswer answer_;
    json::object last_;           // of a finished one
    int place_ = -1;              // in the queue; 0: it runs
    bool finished_ = false, cancelled_ = false;
    GenerationRun* run_ = nullptr;
    Changes changes_{app_.io};
};

/// Sends the events of a response that is in storage, from number `first` on.
asio::awaitable<void> replay(const Response& response, Exchange& exchange, std::int64_t first);

/// Where the piece of text that begins at `at` ends: before the next character that is no letter or digit of ASCII. npos: it
/// isn't known yet. It follows from the text alone, so that event N is the same whenever and from wherever it is asked for.
std::size_t piece_end(std::string_view text, std::size_t at, bool whole);

}  // namespace glmd
