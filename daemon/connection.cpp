// The only file that knows Beast. While a request is answered, the socket is watched for EPOLLHUP (asio's wait_error):
// that comes when the peer has closed both directions, so a half-closed client still gets its answer, and bytes of a
// pipelined request don't wake anything.
#include "daemon/connection.h"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include "daemon/log.h"
#include "daemon/routes.h"
#include "daemon/version.h"

namespace glmd {
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Protocol = asio::local::stream_protocol;
using std::chrono::seconds;

namespace {

constexpr std::uint32_t header_limit = 16 * 1024;

std::string lower(std::string_view text) {
    std::string out(text);
    for (char& c : out)
        if (c >= 'A' && c <= 'Z') c = char(c + 32);
    return out;
}

class Connection final : public ConnectionHandle, public std::enable_shared_from_this<Connection> {
public:
    Connection(Application& app, Protocol::socket socket, Identity identity, std::optional<HttpError> refusal, std::function<void()> done)
        : app_(app), stream_(std::move(socket)), identity_(std::move(identity)), refusal_(std::move(refusal)), done_(std::move(done)) {}
    ~Connection() override { done_(); }

    void drain() override {
        draining_ = true;
        if (!answering_) stream_.socket().close(ignored_);
    }

    asio::awaitable<void> run();

private:
    class Current;
    asio::awaitable<bool> serve_one();
    asio::awaitable<void> write_raw(std::string text);
    asio::awaitable<void> linger();

    Application& app_;
    beast::basic_stream<Protocol> stream_;
    beast::flat_buffer buffer_;
    Identity identity_;
    std::optional<HttpError> refusal_;
    std::function<void()> done_;
    bool answering_ = false, draining_ = false;
    boost::system::error_code ignored_;
};

/// The request being answered.
class Connection::Current final : public Exchange, public EventStream {
public:
    Current(Connection& connection, unsigned http_version, bool keep_alive)
        : connection_(connection), version_(http_version), keep_alive_(keep_alive), watch_(std::make_shared<Watch>()) {}
    ~Current() override {
        watch_->current = nullptr;
        watch_->signal.emit(asio::cancellation_type::total);
    }

    /// Begins to look for the peer going away.
    void watch() {
        watch_->current = this;
        connection_.stream_.socket().async_wait(
            Protocol::socket::wait_error,
            asio::bind_cancellation_slot(watch_->signal.slot(), [watch = watch_](boost::system::error_code error) {
                if (!error && watch->current) watch->current->lose();
            }));
    }

    HttpRequest& request() override { return request_; }
    bool disconnected() const override { return lost_; }
    void on_disconnect(std::function<void()> call) override { on_disconnect_ = std::move(call); }

    asio::awaitable<void> respond(HttpResponse answer) override {
        started_ = true;
        status_ = answer.status;
        if (connection_.draining_) keep_alive_ = false;
        http::response<http::string_body> response(http::status(answer.status), version_);
        set_common(response);
        response.set(http::field::content_type, answer.content_type);
        for (const auto& [name, value] : answer.headers) response.set(name, value);
        response.keep_alive(keep_alive_);
        bool head = request_.method == "HEAD";
        if (head) response.content_length(answer.body.size());
        else response.body() = std::move(answer.body);
        if (!head) response.prepare_payload();
        connection_.stream_.expires_after(seconds(connection_.app_.config.write_timeout_s));
        boost::system::error_code error;
        co_await http::async_write(connection_.stream_, response, asio::redirect_error(asio::use_awaitable, error));
        if (error) lose();
    }

    EventStream& events() override {
        if (!streaming_) {
            streaming_ = started_ = true;
            status_ = 200;
        }
        return *this;
    }

    void queue(std::string_view event, std::string_view data) override {
        if (!event.empty()) pending_.append("event: ").append(event).append("\n");
        pending_.append("data: ").append(data).append("\n\n");
    }

    void comment(std::string_view text) override { pending_.append(": ").append(text).append("\n\n"); }

    asio::awaitable<void> flush() override {
        std::string piece = std::move(pending_);
        pending_.clear();
        if (lost_) co_return;
        boost::system::error_code error;
        connection_.stream_.expires_after(seconds(connection_.app_.config.write_timeout_s));
        if (!header_sent_) {
            header_sent_ = true;
            if (version_ < 11 || connection_.draining_) keep_alive_ = false;
            http::response<http::empty_body> response(http::status::ok, version_);
            set_common(response);
            response.set(http::field::content_type, "text/event-stream; charset=utf-8");
            response.set(http::field::cache_control, "no-cache");
            response.keep_alive(keep_alive_);
            response.chunked(version_ >= 11);
            http::response_serializer<http::empty_body> serializer(response);
            co_await http::async_write_header(connection_.stream_, serializer, asio::redirect_error(asio::use_awaitable, error));
            if (error) lose();
        }
        if (lost_ || piece.empty()) co_return;
        if (version_ >= 11) {
            auto chunk = http::make_chunk(asio::buffer(piece));
            co_await asio::async_write(connection_.stream_, chunk, asio::redirect_error(asio::use_awaitable, error));
        } else {
            co_await asio::async_write(connection_.stream_, asio::buffer(piece), asio::redirect_error(asio::use_awaitable, error));
        }
        if (error) lose();
    }

    /// After the handler: the end of a stream.
    asio::awaitable<void> close_stream() {
        if (!streaming_) co_return;
        co_await flush();
        if (lost_ || version_ < 11) co_return;
        boost::system::error_code error;
        auto last = http::make_chunk_last();
        co_await asio::async_write(connection_.stream_, last, asio::redirect_error(asio::use_awaitable, error));
        if (error) lose();
    }

    bool started() const { return started_; }
    bool streaming() const { return streaming_; }
    bool keep_open() const { return keep_alive_ && !lost_; }
    void close_after() { keep_alive_ = false; }
    int status() const { return lost_ ? 499 : status_; }

private:
    struct Watch {
        asio::cancellation_signal signal;
        Current* current = nullptr;
    };

    template <class Message>
    void set_common(Message& message) {
        message.set(http::field::server, std::string("glmd/") + version);
        message.set("x-request-id", request_.id);
    }

    void lose() {
        if (lost_) return;
        lost_ = true;
        if (std::function<void()> call = std::move(on_disconnect_)) call();
    }

    Connection& connection_;
    unsigned version_;
    bool keep_alive_;
    std::shared_ptr<Watch> watch_;
    HttpRequest request_;
    std::function<void()> on_disconnect_;
    std::string pending_;
    bool started_ = false, streaming_ = false, header_sent_ = false, lost_ = false;
    int status_ = 0;
};

asio::awaitable<void> Connection::write_raw(std::string text) {
    boost::system::error_code error;
    co_await asio::async_write(stream_, asio::buffer(text), asio::redirect_error(asio::use_awaitable, error));
}

/// Reads what the peer still sends, so that closing doesn't throw away the answer it hasn't read yet.
asio::awaitable<void> Connection::linger() {
    boost::system::error_code error;
    stream_.socket().shutdown(Protocol::socket::shutdown_send, error);
    stream_.expires_after(seconds(2));
    char sink[8192];
    for (int total = 0; total < (64 << 20);) {
        std::size_t size = co_await stream_.async_read_some(asio::buffer(sink), asio::redirect_error(asio::use_awaitable, error));
        if (error) break;
        total += int(size);
    }
}

/// True: the connection is good for another request.
asio::awaitable<bool> Connection::serve_one() {
    http::request_parser<http::string_body> parser;
    parser.header_limit(header_limit);
    parser.body_limit(std::uint64_t(app_.config.max_body_bytes));
    stream_.expires_after(seconds(refusal_ ? 5 : app_.config.idle_timeout_s));
    boost::system::error_code error;
    co_await http::async_read_header(stream_, buffer_, parser, asio::redirect_error(asio::use_awaitable, error));
    if (error == http::error::end_of_stream || (error && error.category() != make_error_code(http::error::end_of_stream).category()) ||
        error == beast::error::timeout || error == http::error::partial_message)
        co_return false;

    answering_ = true;
    auto begun = std::chrono::steady_clock::now();
    const auto& message = parser.get();
    std::optional<HttpError> refuse = refusal_;
    bool broken = false;
    auto explain = [&](boost::system::error_code why) {
        broken = true;
        if (why == http::error::body_limit)
            refuse.emplace(413, "body_too_large", "A body has at most " + std::to_string(app_.config.max_body_bytes) + " bytes.");
        else if (why == http::error::header_limit)
            refuse.emplace(431, "header_too_large", "A header has at most 16384 bytes.");
        else if (why == beast::error::timeout)
            refuse.emplace(408, "request_timeout", "The body took too long.");
        else
            refuse.emplace(400, "bad_request", "The request isn't HTTP/1.1: " + why.message() + ".");
    };
    if (error) explain(error);
    if (!refuse && (message.count(http::field::origin) || message.count(http::field::referer)))
        refuse.emplace(403, "browser_request", "Requests that carry Origin or Referer come from a browser through a proxy and are refused.");
    if (refuse) broken = true;  // the body is not read
    if (!broken) {
        if (beast::iequals(message[http::field::expect], "100-continue")) co_await write_raw("HTTP/1.1 100 Continue\r\n\r\n");
        stream_.expires_after(seconds(app_.config.body_timeout_s));
        co_await http::async_read(stream_, buffer_, parser, asio::redirect_error(asio::use_awaitable, error));
        if (error && error.category() != make_error_code(http::error::end_of_stream).category() && error != beast::error::timeout) co_return false;
        if (error == http::error::partial_message || error == http::error::end_of_stream) co_return false;
        if (error) explain(error);
    }
    stream_.expires_never();

    Current current(*this, message.version() >= 11 || message.version() == 0 ? 11 : 10, message.keep_alive() && !broken);
    HttpRequest& request = current.request();
    request.id = new_id("req_");
    request.identity = identity_;
    request.method = std::string(message.method_string());
    ++app_.requests;
    if (!broken) {
        for (const auto& field : message) request.headers[lower(field.name_string())] = std::string(field.value());
        request.body = std::move(parser.get().body());
        current.watch();
    }
    std::exception_ptr failure;
    std::string endpoint = "other";
    try {
        if (refuse) throw *refuse;
        parse_target(message.target(), request);
        Handler handler = find_route(request);
        endpoint = request.method + " " + request.route;
        co_await handler(app_, current);
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) {
        HttpError problem = to_http_error(failure);
        if (!current.started()) {
            co_await current.respond(error_response(problem));
        } else if (current.streaming()) {
            current.queue("", json::serialize(error_body(problem)));
            current.close_after();
        }
    }
    co_await current.close_stream();
    const double seconds_taken = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    app_.metrics->answered(endpoint, current.status(), seconds_taken);
    log_debug(request.id + " uid " + std::to_string(identity_.uid) + " " + request.method + " " + request.route + " " +
              std::to_string(current.status()) + " " + std::to_string(int(1000 * seconds_taken)) + " ms");
    bool again = current.keep_open() && !draining_;
    if (broken && !current.disconnected()) co_await linger();  // the rest of a body may still come
    answering_ = false;
    co_return again;
}

asio::awaitable<void> Connection::run() {
    auto self = shared_from_this();
    for (;;) {
        bool again = co_await serve_one();
        if (!again || draining_) break;
    }
    stream_.socket().close(ignored_);
}

}  // namespace

std::shared_ptr<ConnectionHandle> serve_connection(Application& app, Protocol::socket socket, Identity identity,
                                                   std::optional<HttpError> refusal, std::function<void()> done) {
    auto connection = std::make_shared<Connection>(app, std::move(socket), std::move(identity), std::move(refusal), std::move(done));
    asio::co_spawn(app.io, connection->run(), [connection](std::exception_ptr error) {
        if (error) log_error("a connection ended with an exception");
    });
    return connection;
}

}  // namespace glmd
