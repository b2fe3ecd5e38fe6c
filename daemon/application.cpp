// Loading runs on its own thread and comes back to the I/O thread with one post. Requests hold the engine by shared_ptr,
// so a reload first waits until the last of them has let go: two models may not fit in memory together.
#include "daemon/application.h"

#include <cstdlib>
#include <filesystem>

#include "daemon/generation.h"
#include "daemon/log.h"
#include "engine/error.h"

namespace glmd {

std::string model_id_of(const std::string& path) {
    std::filesystem::path name = std::filesystem::path(path).filename();
    return name.extension() == ".gguf" ? name.stem().string() : name.string();
}

Application::Application(asio::io_context& io_, Config config_, std::unique_ptr<SessionStore> store)
    : io(io_), config(std::move(config_)), storage(std::move(store), metrics) {}

Application::~Application() { shut_down(); }

void Application::load_model() {
    if (loading_) {
        load_again_ = true;
        return;
    }
    if (loader_.joinable()) loader_.join();
    std::string path = config.model_path();
    model_id_ = model_id_of(path);
    std::weak_ptr<Engine> old = engine_;
    engine_.reset();
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) {
        state_ = ModelState::missing;
        log_warning("no model file; bring one in with: glm model import PATH");
        return;
    }
    state_ = ModelState::loading;
    loading_ = true;
    EngineOptions options = config.engine;
    options.on_step = [metrics = metrics](const StepReport& step) { metrics->stepped(step); };
    options.on_plan = [](const std::string& plan) { log_info(plan); };
    // Nothing but a new process gets the device back; sessions are on disk.
    const auto give_up = options.on_device_lost = [](const std::string& why) {
        log_error("the GPU is lost, and so this process ends: " + why);
        std::_Exit(EXIT_FAILURE);
    };
    loader_ = std::thread([this, path, options, old, give_up] {
        for (int i = 0; !old.expired(); ++i) {
            if (i == 200) asio::post(io, [this] { cancel_generations(); });
            if (stopping_loader_) break;
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        std::shared_ptr<Engine> engine;
        std::string code, failure;
        try {
            engine = make_engine(path, options);
        } catch (const DeviceLost& e) {
            give_up(e.what());
        } catch (const std::exception& e) {
            failure = e.what();
            code = failure.starts_with("insufficient memory:") ? "insufficient_memory" : "model_failed";
        }
        asio::post(io, [this, engine = std::move(engine), code, failure]() mutable {
            loading_ = false;
            if (stopping) return;
            failure_code_ = code;
            failure_ = failure;
            state_ = engine ? ModelState::ready : ModelState::failed;
            engine_ = std::move(engine);
            if (engine_) {
                const ModelInfo& info = engine_->model();
                metrics->backend = info.backend.substr(0, info.backend.find_first_of(" ,"));
                log_info("model " + model_id_ + ": " + info.architecture + " " + info.quantization + ", " + std::to_string(info.parameters / 1000000) +
                         "M parameters, context " + std::to_string(info.context) + ", weights " + std::to_string(info.weight_bytes >> 20) +
                         " MiB" + (info.pass_bytes ? " and " + std::to_string(info.pass_bytes >> 20) + " MiB streamed from disk" : "") + ", KV " + std::to_string(info.kv_bytes >> 20) + " MiB, " + info.backend + ", loaded in " +
                         std::to_string(int(info.load_s * 1000)) + " ms");
            } else {
                log_error("model " + model_id_ + ": " + failure_);
            }
            if (std::exchange(load_again_, false)) load_model();
        });
    });
}

std::shared_ptr<Engine> Application::require_engine(const std::optional<std::string>& requested, const Identity& identity) {
    if (stopping) throw HttpError(503, "stopping", "The service is stopping.", "", 2);
    if (requested && *requested != model_id_ && *requested != "default" && *requested != model_id_ + ".gguf" && state_ != ModelState::missing)
        throw HttpError(404, "model_not_found", "The model '" + *requested + "' isn't loaded; '" + model_id_ + "' is.", "model");
    if (state_ != ModelState::missing && !config.tenant(identity.tenant).may_use(model_id_))
        throw HttpError(404, "model_not_found", "No model that this socket may use is loaded.", "model");
    switch (state_) {
        case ModelState::ready: return engine_;
        case ModelState::loading: throw HttpError(503, "model_loading", "The model is being loaded.", "", 2);
        case ModelState::missing: {
            HttpError error(503, "no_model", "There is no model yet; bring one in with: glm model import PATH");
            error.should_retry = false;
            throw error;
        }
        case ModelState::failed: break;
    }
    HttpError error(503, failure_code_, failure_);
    error.should_retry = false;
    throw error;
}

void Application::cancel_generations() {
    for (GenerationRun* run : runs) run->cancel();
}

void Application::shut_down() {
    stopping = true;
    stopping_loader_ = true;
    if (loader_.joinable()) loader_.join();
    storage.join();
    text_pool.join();
    engine_.reset();
}

Application::Busy::Busy(Application& app, const Identity& identity, const std::string& id) : key_(identity, id) {
    app.require_idle(identity, id);
    app.busy_.insert(key_);
    app_ = &app;
}

Application::Busy::~Busy() {
    if (app_) app_->busy_.erase(key_);
}

void Application::require_idle(const Identity& identity, const std::string& id) const {
    if (busy_.contains({identity, id}))
        throw HttpError(409, "conversation_busy", "Another response is in progress in '" + id + "'.", "", 1);
}

}  // namespace glmd
