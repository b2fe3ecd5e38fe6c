#include "daemon/load_progress.h"

#include <algorithm>

#include "daemon/http.h"

namespace glmd {

json::object loading_json(const LoadProgress& load) {
    const std::uint64_t total = load.total;
    json::object o{{"stage", load.stage.load()}, {"progress", nullptr}};
    if (total > 0) o["progress"] = std::min(1.0, double(load.done) / double(total));
    o["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - load.begun).count();
    return o;
}

asio::awaitable<void> LoadWaiter::tell(const std::string& model, const LoadProgress& load) {
    json::object event{{"type", "glm.model.loading"}, {"model", model}};
    for (auto& [key, value] : loading_json(load)) event[key] = value;
    const std::string text = json::serialize(event);
    EventStream& stream = exchange.events();
    if (comments) stream.comment(text);
    else stream.queue("glm.model.loading", text);
    co_await stream.flush();
}

}  // namespace glmd
