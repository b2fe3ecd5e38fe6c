#pragma once
// The daemon's HTTP API over its Unix socket.
#include <boost/json.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "cli/app.h"

namespace glmd {

namespace json = boost::json;

/// An error that the daemon reported, with the exit code that it means.
struct ApiError : CliError {
    ApiError(int http_status, std::string error_code, const std::string& message, int retry_after_s = 0);
    int status;
    std::string code;
    int retry_after;
};

/// The exit code for an HTTP status and the error's code (status 0: an error in the middle of a stream).
Exit exit_for(int status, std::string_view code);

/// Server-sent events, fed in pieces of any size.
class SseParser {
public:
    using Handler = std::function<void(std::string_view event, std::string_view data)>;
    explicit SseParser(Handler handler) : handler_(std::move(handler)) {}
    /// Throws CliError when one event is larger than 64 MiB.
    void feed(std::string_view bytes);

private:
    void line(std::string_view text);
    Handler handler_;
    std::string line_, event_, data_;
    bool has_data_ = false, after_cr_ = false, first_ = true;
};

/// Not thread-safe; one request at a time over one kept connection.
class Client {
public:
    explicit Client(std::string socket);
    ~Client();
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    /// The answer's JSON (null when empty). Throws ApiError, CliError (unreachable, denied, interrupted).
    json::value get(const std::string& path) { return request("GET", path, nullptr); }
    /// An answer that isn't JSON.
    std::string text(const std::string& path) { return exchange("GET", path, nullptr); }
    json::value post(const std::string& path, const json::value& body, long timeout_s = 60) { return request("POST", path, &body, timeout_s); }
    json::value remove(const std::string& path) { return request("DELETE", path, nullptr); }

    using Event = std::function<void(std::string_view event, const json::object& data)>;
    using Tick = std::function<void()>;
    /// POST whose answer is an event stream. `tick` runs about ten times a second. Ctrl-C closes the connection, which
    /// cancels the work, and throws CliError with Exit::interrupted. An error in the stream is an ApiError.
    void stream(const std::string& path, const json::value& body, const Event& event, const Tick& tick);

private:
    struct Transfer;
    std::string exchange(const char* method, const std::string& path, const std::string* body, long timeout_s = 60);
    json::value request(const char* method, const std::string& path, const json::value* body, long timeout_s = 60);
    void perform(Transfer& transfer, const char* method, const std::string& path, const std::string* body, long timeout_s,
                 const Tick& tick);
    struct Handles;
    std::string socket_;
    std::unique_ptr<Handles> handles_;
};

class Terminal;
/// Runs `work`; while the daemon answers model_loading, waits with a spinner and tries again, 60 s at most.
void with_loading_wait(const Terminal& terminal, const std::function<void()>& work);
/// What a spinner says of an event glm.model.loading.
std::string describe_loading(const json::object& event);

// Reading JSON of which little is promised.
std::string text_of(const json::object& object, std::string_view key, std::string_view fallback = "");
std::int64_t number_of(const json::object& object, std::string_view key, std::int64_t fallback = 0);
const json::object* object_of(const json::object& object, std::string_view key);
const json::array* array_of(const json::object& object, std::string_view key);
const json::object& as_object(const json::value& value);  // CliError when it isn't one

}  // namespace glmd
