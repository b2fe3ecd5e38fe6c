#pragma once
// One accepted socket: HTTP/1.1 with keep-alive, one request at a time.
#include <boost/asio/local/stream_protocol.hpp>
#include <functional>
#include <memory>
#include <optional>

#include "daemon/application.h"
#include "daemon/http.h"

namespace glmd {

/// What the listener may do with a connection; it lives as long as its coroutine.
class ConnectionHandle {
public:
    virtual ~ConnectionHandle() = default;
    /// Closes at once if no request is being answered, else after the answer.
    virtual void drain() = 0;
};

/// Starts serving. `refusal`: the first request is answered with it and the connection closed. `done` is called at the end.
std::shared_ptr<ConnectionHandle> serve_connection(Application& app, asio::local::stream_protocol::socket socket, Identity identity,
                                                   std::optional<HttpError> refusal, std::function<void()> done);

}  // namespace glmd
