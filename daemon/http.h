#pragma once
// What an endpoint sees of HTTP: plain structs and two small interfaces, no Beast.
// One Exchange is one request and its answer; everything about it happens on the I/O thread.
#include <boost/asio/awaitable.hpp>
#include <boost/json.hpp>
#include <exception>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "storage/session_store.h"

namespace glmd {

namespace json = boost::json;
namespace asio = boost::asio;

/// An answer other than success; the connection turns it into {"error":{message,type,param,code}}.
struct HttpError : std::runtime_error {
    HttpError(int status_, std::string code_, const std::string& message, std::string param_ = {}, int retry_after_ = 0)
        : std::runtime_error(message), status(status_), code(std::move(code_)), param(std::move(param_)), retry_after(retry_after_) {}
    int status;
    std::string code, param;
    int retry_after;            // seconds; 0: no header
    bool should_retry = true;   // false: "x-should-retry: false"
    std::string allow;          // 405's header
    /// OpenAI's word for the kind of error, which follows from the status.
    std::string_view type() const;
};

/// 400 invalid_request_error about one parameter.
HttpError bad_parameter(const std::string& param, const std::string& message, std::string code = "invalid_value");

/// 503: nothing new is begun.
HttpError service_stopping();

struct HttpRequest {
    std::string method, path;
    std::map<std::string, std::string> query;
    std::map<std::string, std::string> headers;  // names in lower case
    std::string body;
    Identity identity;
    std::string id;                              // x-request-id
    std::vector<std::string> path_parameters;    // what stood in the route's {…}, filled in by the router
    std::string route = "-";                     // the matched pattern, for the log
};

struct HttpResponse {
    int status = 200;
    std::string body;
    std::string content_type = "application/json";
    std::vector<std::pair<std::string, std::string>> headers;
};

HttpResponse json_response(const json::value& value, int status = 200);
/// What is said of a thing that is gone.
json::object deleted_json(const std::string& id, std::string_view object);
json::value error_body(const HttpError& error);
HttpResponse error_response(const HttpError& error);
/// What a failure of any module means to a client. Call inside of nothing: takes the caught exception.
HttpError to_http_error(std::exception_ptr error);

/// Server-sent events. queue() collects, flush() writes all that is queued in one piece. Never throws: after the peer
/// is gone both do nothing.
class EventStream {
public:
    virtual ~EventStream() = default;
    /// event may be empty (chat streams have data lines only).
    virtual void queue(std::string_view event, std::string_view data) = 0;
    /// One line that clients ignore.
    virtual void comment(std::string_view text) = 0;
    virtual asio::awaitable<void> flush() = 0;
    /// An empty comment, which keeps proxies and timeouts quiet.
    asio::awaitable<void> keep_alive() {
        comment("");
        return flush();
    }
};

class Exchange {
public:
    virtual ~Exchange() = default;
    virtual HttpRequest& request() = 0;
    virtual asio::awaitable<void> respond(HttpResponse response) = 0;
    /// The status line goes out with the first flush.
    virtual EventStream& events() = 0;
    virtual bool disconnected() const = 0;
    /// Called once on the I/O thread when the peer is gone; an empty function unhooks.
    virtual void on_disconnect(std::function<void()> call) = 0;
};

/// Splits and decodes a request target. Throws HttpError 400.
void parse_target(std::string_view target, HttpRequest& request);

}  // namespace glmd
