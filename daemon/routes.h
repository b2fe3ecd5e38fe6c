#pragma once
#include <string_view>

#include "daemon/application.h"
#include "daemon/http.h"

namespace glmd {

/// Answers by exchange.respond() or exchange.events(); throws what to_http_error() understands.
using Handler = asio::awaitable<void> (*)(Application&, Exchange&);

/// Fills in request().path_parameters and route. Throws HttpError 404, 405.
Handler find_route(HttpRequest& request);

}  // namespace glmd
