#pragma once
// How far a load is, and what those who wait for it are told.
#include <boost/asio/awaitable.hpp>
#include <boost/json.hpp>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

namespace glmd {
namespace asio = boost::asio;
namespace json = boost::json;

class Exchange;

/// The loader writes, anybody reads.
struct LoadProgress {
    std::atomic<const char*> stage{""};
    std::atomic<std::uint64_t> done{0}, total{0};  // of the stage; a total of 0: unknown
    std::atomic<std::uint64_t> marks{0};           // grows with everything that gets done, and with nothing else
    std::chrono::steady_clock::time_point begun;   // the I/O thread's

    void at(const char* name, std::uint64_t now, std::uint64_t all) {
        if (stage.exchange(name) != name || done.exchange(now) != now) ++marks;
        total = all;
    }
};

/// stage, progress of the stage (null: unknown) and seconds since the load began.
json::object loading_json(const LoadProgress& load);

/// One that waits for a model.
struct LoadWaiter {
    Exchange& exchange;
    bool stream;            // it is told of the load, by events `glm.model.loading`
    bool comments = false;  // or by comments, where clients take every event for a piece of the answer
    asio::awaitable<void> tell(const std::string& model, const LoadProgress& load);
};

}  // namespace glmd
