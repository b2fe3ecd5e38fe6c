// Transfers run through curl's multi interface though there is only ever one: its poll returns ten times a second, which
// turns the spinner and notices Ctrl-C at once (the easy interface looks up once a second). Removing a running transfer
// closes its connection, and a closed connection is how the daemon learns that an answer is no longer wanted.
#include "cli/client.h"

#include <curl/curl.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <optional>
#include <thread>

#include "cli/terminal.h"

namespace glmd {

namespace {
constexpr std::size_t max_event = 64u << 20;
constexpr std::size_t max_body = 256u << 20;

[[noreturn]] void throw_error_object(int status, const json::object& error, int retry_after) {
    std::string message = text_of(error, "message", "the daemon reported an error without a message");
    throw ApiError(status, text_of(error, "code", text_of(error, "type")), message, retry_after);
}

[[noreturn]] void throw_http_error(int status, const std::string& body, int retry_after) {
    boost::system::error_code failed;
    const json::value value = json::parse(body, failed);
    if (!failed && value.is_object())
        if (const json::object* error = object_of(value.get_object(), "error")) throw_error_object(status, *error, retry_after);
    throw ApiError(status, "", "the daemon answered with HTTP status " + std::to_string(status), retry_after);
}
}  // namespace

Exit exit_for(int status, std::string_view code) {
    if (code == "context_length_exceeded" || status == 413) return Exit::too_long;
    if (code == "insufficient_memory") return Exit::no_memory;
    if (code == "conversation_busy" || code == "queue_full" || code == "quota_exceeded" || code == "model_loading" ||
        code == "rate_limit_exceeded" || status == 409 || status == 429)
        return Exit::busy;
    if (status == 401 || status == 403) return Exit::denied;
    return Exit::error;
}

namespace {
std::string sentence(std::string_view code, std::string message, int retry_after) {
    if (code == "conversation_busy")
        message = "this session is answering another request; wait for it or use another session";
    else if (code == "queue_full")
        message = "the daemon is busy: its queue is full";
    else if (code == "no_model" && message.find("glm model import") == std::string::npos)
        message = "the daemon has no model; install one with: glm model import FILE.gguf";
    if (retry_after > 0) message += "; try again in " + std::to_string(retry_after) + " s";
    return message;
}
}  // namespace

ApiError::ApiError(int http_status, std::string error_code, const std::string& message, int retry_after_s)
    : CliError(exit_for(http_status, error_code), sentence(error_code, message, retry_after_s)),
      status(http_status),
      code(std::move(error_code)),
      retry_after(retry_after_s) {}

void SseParser::feed(std::string_view bytes) {
    for (const char c : bytes) {
        if (c == '\n' && after_cr_) {
            after_cr_ = false;
            continue;
        }
        after_cr_ = c == '\r';
        if (c == '\n' || c == '\r') {
            std::string whole;
            whole.swap(line_);
            line(whole);
        } else {
            line_ += c;
            if (line_.size() + data_.size() > max_event) throw CliError(Exit::error, "the daemon sent an endless event");
        }
    }
}

void SseParser::line(std::string_view text) {
    if (first_ && text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
    first_ = false;
    if (text.empty()) {
        if (has_data_) handler_(event_, data_);
        event_.clear();
        data_.clear();
        has_data_ = false;
        return;
    }
    const std::size_t colon = text.find(':');
    if (colon == 0) return;  // a comment
    const std::string_view field = text.substr(0, colon);
    std::string_view value = colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (field == "event") {
        event_ = value;
    } else if (field == "data") {
        if (has_data_) data_ += '\n';
        data_ += value;
        has_data_ = true;
    }
}

struct Client::Handles {
    CURLM* multi = nullptr;
    CURL* easy = nullptr;
    ~Handles() {
        if (easy) curl_easy_cleanup(easy);
        if (multi) curl_multi_cleanup(multi);
    }
};

struct Client::Transfer {
    CURL* easy = nullptr;
    std::string body;            // of an ordinary answer, or of an error
    SseParser* events = nullptr;  // for a stream
    bool is_stream = false;       // the answer is one
    int retry_after = 0;
    long status = 0;
    std::exception_ptr failure;  // thrown in a callback, which is C: kept until it has returned

    static std::size_t on_header(char* data, std::size_t, std::size_t n, void* self) {
        auto& transfer = *static_cast<Transfer*>(self);
        std::string text(data, n);
        for (char& c : text)
            if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
        if (text.starts_with("http/")) transfer.is_stream = false, transfer.retry_after = 0;
        if (text.starts_with("retry-after:")) transfer.retry_after = std::atoi(text.c_str() + 12);
        if (text.starts_with("content-type:")) transfer.is_stream = text.find("text/event-stream") != std::string::npos;
        return n;
    }

    static std::size_t on_body(char* data, std::size_t, std::size_t n, void* self) {
        auto& transfer = *static_cast<Transfer*>(self);
        try {
            long status = 0;
            curl_easy_getinfo(transfer.easy, CURLINFO_RESPONSE_CODE, &status);
            if (transfer.events && transfer.is_stream && status < 300) {
                transfer.events->feed({data, n});
            } else {
                if (transfer.body.size() + n > max_body) throw CliError(Exit::error, "the daemon's answer is too large");
                transfer.body.append(data, n);
            }
            return n;
        } catch (...) {
            transfer.failure = std::current_exception();
            return 0;
        }
    }
};

Client::Client(std::string socket) : socket_(std::move(socket)), handles_(std::make_unique<Handles>()) {
    static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
    if (socket_.size() >= sizeof(sockaddr_un::sun_path))
        throw CliError(Exit::usage, "the socket's path is too long: " + socket_);
    handles_->multi = curl_multi_init();
    handles_->easy = curl_easy_init();
    if (started != CURLE_OK || !handles_->multi || !handles_->easy) throw CliError(Exit::error, "libcurl doesn't start");
}

Client::~Client() = default;

void Client::perform(Transfer& transfer, const char* method, const std::string& path, const std::string* body,
                     long timeout_s, const Tick& tick) {
    CURL* easy = handles_->easy;
    transfer.easy = easy;
    curl_easy_reset(easy);
    const std::string url = "http://localhost" + path;
    curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
    curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, socket_.c_str());
    curl_easy_setopt(easy, CURLOPT_PROXY, "");  // http_proxy is not for us
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT, timeout_s);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "glm");
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &Transfer::on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
    std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(curl_slist_append(nullptr, "Expect:"),
                                                                        &curl_slist_free_all);
    curl_slist_append(headers.get(), "Content-Type: application/json");
    if (body) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body->size()));
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body->data());
    }
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers.get());

    curl_multi_add_handle(handles_->multi, easy);
    struct Remove {
        CURLM* multi;
        CURL* easy;
        ~Remove() { curl_multi_remove_handle(multi, easy); }
    } remove{handles_->multi, easy};

    CURLcode result = CURLE_OK;
    for (;;) {
        int running = 0;
        if (curl_multi_perform(handles_->multi, &running) != CURLM_OK)
            throw CliError(Exit::error, "libcurl failed on the daemon's socket");
        if (interrupted()) throw CliError(Exit::interrupted, "interrupted");
        int left = 0;
        bool done = false;
        while (CURLMsg* message = curl_multi_info_read(handles_->multi, &left))
            if (message->msg == CURLMSG_DONE) done = true, result = message->data.result;
        if (done) break;
        if (tick) tick();
        curl_multi_poll(handles_->multi, nullptr, 0, 100, nullptr);
    }
    if (transfer.failure) std::rethrow_exception(transfer.failure);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &transfer.status);
    if (result == CURLE_OK) return;
    if (transfer.status == 0 && (result == CURLE_COULDNT_CONNECT || result == CURLE_OPERATION_TIMEDOUT)) {
        if (::access(socket_.c_str(), W_OK) != 0 && (errno == EACCES || errno == EPERM))
            throw CliError(Exit::denied, "you may not use the daemon's socket " + socket_ +
                                             "; ask an administrator to run: usermod -aG glm YOUR-NAME (then log in again)");
        throw CliError(Exit::unreachable,
                       "no daemon answers at " + socket_ +
                           "; start it with: systemctl start glmd.socket   (or run glmd yourself, or give --socket)");
    }
    if (result == CURLE_OPERATION_TIMEDOUT) throw CliError(Exit::unreachable, "the daemon didn't answer in time");
    // An error status whose rest was lost still says more than libcurl does.
    if (transfer.status >= 400) return;
    if (result == CURLE_PARTIAL_FILE || result == CURLE_GOT_NOTHING || result == CURLE_RECV_ERROR)
        throw CliError(Exit::unreachable, "the daemon ended in the middle of its answer; what it had stored is in the session: glm session list");
    throw CliError(Exit::unreachable, std::string("the connection to the daemon broke: ") + curl_easy_strerror(result));
}

std::string Client::exchange(const char* method, const std::string& path, const std::string* body, long timeout_s) {
    Transfer transfer;
    perform(transfer, method, path, body, timeout_s, {});
    if (transfer.status >= 300) throw_http_error(static_cast<int>(transfer.status), transfer.body, transfer.retry_after);
    return std::move(transfer.body);
}

json::value Client::request(const char* method, const std::string& path, const json::value* body, long timeout_s) {
    const std::optional<std::string> text = body ? std::optional(json::serialize(*body)) : std::nullopt;
    const std::string answer = exchange(method, path, text ? &*text : nullptr, timeout_s);
    if (answer.empty()) return nullptr;
    boost::system::error_code failed;
    json::value value = json::parse(answer, failed);
    if (failed) throw CliError(Exit::error, "what answers at " + socket_ + " doesn't speak glmd's protocol");
    return value;
}

void Client::stream(const std::string& path, const json::value& body, const Event& event, const Tick& tick) {
    SseParser parser([&](std::string_view name, std::string_view data) {
        if (data == "[DONE]") return;
        boost::system::error_code failed;
        const json::value value = json::parse(data, failed);
        if (failed || !value.is_object()) throw CliError(Exit::error, "the daemon sent an event that isn't JSON");
        const json::object& object = value.get_object();
        if (const json::object* error = object_of(object, "error")) throw_error_object(0, *error, 0);
        const std::string type = name.empty() ? text_of(object, "type") : std::string(name);
        event(type, object);
    });
    Transfer transfer;
    transfer.events = &parser;
    const std::string text = json::serialize(body);
    perform(transfer, "POST", path, &text, 0, tick);
    if (transfer.status >= 300) throw_http_error(static_cast<int>(transfer.status), transfer.body, transfer.retry_after);
    if (!transfer.is_stream) throw CliError(Exit::error, "the daemon didn't answer with an event stream");
}

void with_loading_wait(const Terminal& terminal, const std::function<void()>& work) {
    using namespace std::chrono;
    const auto begin = steady_clock::now();
    Spinner spinner(terminal);
    spinner.say("the daemon is loading the model");
    for (;;) {
        try {
            spinner.clear();
            work();
            return;
        } catch (const ApiError& e) {
            if (e.code != "model_loading" || steady_clock::now() - begin > 60s) throw;
            const auto until = steady_clock::now() + milliseconds(e.retry_after > 0 ? 1000 : 500);
            while (steady_clock::now() < until) {
                if (interrupted()) throw CliError(Exit::interrupted, "interrupted");
                spinner.tick();
                std::this_thread::sleep_for(50ms);
            }
        }
    }
}

std::string describe_loading(const json::object& event) {
    const std::string stage = text_of(event, "stage");
    std::string text = "loading " + text_of(event, "model", "the model");
    if (stage == "waiting") return text + ": another model's answers end first";
    text += stage == "packing" ? ": packing it for this machine, once" : stage == "copying" ? ": copying" : stage == "testing" ? ": testing" : "";
    if (const json::value* progress = event.if_contains("progress"); progress && progress->is_number())
        text += ", " + std::to_string(static_cast<int>(100 * progress->to_number<double>())) + " %";
    return text + ", " + std::to_string(number_of(event, "seconds")) + " s";
}

std::string text_of(const json::object& object, std::string_view key, std::string_view fallback) {
    const json::value* value = object.if_contains(key);
    return value && value->is_string() ? std::string(value->get_string()) : std::string(fallback);
}

std::int64_t number_of(const json::object& object, std::string_view key, std::int64_t fallback) {
    const json::value* value = object.if_contains(key);
    if (!value || !value->is_number()) return fallback;
    if (value->is_double()) {
        const double number = value->get_double();
        return number > -9e15 && number < 9e15 ? static_cast<std::int64_t>(number) : fallback;
    }
    return value->is_int64() ? value->get_int64() : static_cast<std::int64_t>(value->get_uint64() & INT64_MAX);
}

const json::object* object_of(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    return value ? value->if_object() : nullptr;
}

const json::array* array_of(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    return value ? value->if_array() : nullptr;
}

const json::object& as_object(const json::value& value) {
    if (const json::object* object = value.if_object()) return *object;
    throw CliError(Exit::error, "the daemon's answer isn't what this glm expects; are their versions the same?");
}

}  // namespace glmd
