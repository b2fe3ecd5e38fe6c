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
    : io(io_), config(std::move(config_)), search(config.search_bytes), storage(std::move(store), metrics) {
    if (config.snapshot_bytes == 0) return;
    snapshots = std::make_shared<Snapshots>(
        KvSnapshotOptions{config.state_directory + "/kv", config.snapshot_bytes, config.snapshot_daily_bytes, {}, config.key, {}},
        [this](const Identity& who, const std::string& session) {
            return storage.ask([&](SessionStore& store) { return store.conversation(who, session) || store.response(who, session); });
        });
    storage.when_full = [kept = snapshots] { kept->make_room(); };
}

Application::~Application() { shut_down(); }

std::optional<std::string> Application::model_file(const std::string& id) const {
    const std::string configured = config.model_path();
    if (id.empty() || id == "default" || id == model_id_of(configured) || id + ".gguf" == configured) return configured;
    if (id.find('/') != id.npos) return std::nullopt;
    std::error_code error;
    for (const char* suffix : {"", ".gguf"}) {
        const std::filesystem::path path = config.models_directory() + "/" + id + suffix;
        if (path.extension() == ".gguf" && std::filesystem::is_regular_file(path, error)) return std::filesystem::canonical(path, error).string();
    }
    return id == model_id_of(configured) + ".gguf" ? std::optional(configured) : std::nullopt;
}

void Application::load_model() {
    watch_idle();
    memory_pressure.watch();
    const std::string path = config.model_path();
    std::error_code error;
    const bool same = path == model_path_ && config.engine_text == engine_text_ && std::filesystem::last_write_time(path, error) == model_time_;
    if (same && !error && (state_ == ModelState::ready || state_ == ModelState::unloaded)) return;
    if (loading_) load_again_ = true;
    else load(path);
}

void Application::load(const std::string& path) {
    model_path_ = path;
    model_id_ = model_id_of(path);
    engine_text_ = config.engine_text;
    std::error_code error;
    if (!std::filesystem::exists(path, error)) {
        state_ = ModelState::missing;
        engine_.reset();
        log_warning("no model file; bring one in with: glm model import PATH");
        return loads_.note();
    }
    model_time_ = std::filesystem::last_write_time(path, error);
    state_ = ModelState::loading;
    EngineOptions options = config.engine;
    options.shelf = snapshots;
    options.rest_s = config.snapshot_after_s;
    options.on_plan = [](const std::string& plan) { log_info(plan); };
    options.on_step = [metrics = metrics](const StepReport& step) { metrics->stepped(step); };
    const auto stage = [this](const char* name) {
        return [this, name](std::size_t done, std::size_t total) { progress_.at(name, done, total); };
    };
    options.on_pack = [this, packing = stage("packing")](std::size_t done, std::size_t total) {
        if (stopping_loader_) throw std::runtime_error("the service stops");
        packing(done, total);
    };
    options.on_upload = stage("copying");
    options.on_test = stage("testing");
    // Nothing but a new process gets the device back; sessions are on disk.
    const auto give_up = options.on_device_lost = [](const std::string& why) {
        log_error("the GPU is lost, and so this process ends: " + why);
        std::_Exit(EXIT_FAILURE);
    };
    auto make = [this, path, options, give_up]() -> std::shared_ptr<Engine> {
        try {
            progress_.at("opening", 0, 0);
            return make_engine(path, options);
        } catch (const DeviceLost& e) {
            give_up(e.what());
            throw;
        }
    };
    replace_engine(make, [this](std::shared_ptr<Engine> engine) {
        state_ = engine ? ModelState::ready : ModelState::failed;
        engine_ = std::move(engine);
        used();
        if (!engine_) return log_error("model " + model_id_ + ": " + failure_);
        const ModelInfo& info = engine_->model();
        metrics->backend = info.backend.substr(0, info.backend.find_first_of(" ,"));
        log_info("model " + model_id_ + ": " + info.architecture + " " + info.quantization + ", " + std::to_string(info.parameters / 1000000) +
                 "M parameters, context " + std::to_string(info.context) + ", weights " + std::to_string(info.weight_bytes >> 20) + " MiB" +
                 (info.pass_bytes ? " and " + std::to_string(info.pass_bytes >> 20) + " MiB streamed from disk" : "") + ", KV " +
                 std::to_string(info.kv_bytes >> 20) + " MiB, " + info.backend + ", loaded in " + std::to_string(int(info.load_s * 1000)) + " ms");
    });
}

void Application::unload() {
    if (loading_ || state_ != ModelState::ready) return;
    log_info("model " + model_id_ + " is unloaded");
    state_ = ModelState::unloaded;
    replace_engine({}, [](std::shared_ptr<Engine>) {});
}

void Application::replace_engine(std::function<std::shared_ptr<Engine>()> make, std::function<void(std::shared_ptr<Engine>)> installed) {
    loading_ = true;
    progress_.begun = std::chrono::steady_clock::now();
    ++progress_.marks;
    if (loader_.joinable()) loader_.join();  // it has posted its last
    loader_ = std::thread([this, make = std::move(make), installed = std::move(installed), old = std::move(engine_)]() mutable {
        // Its requests end first. That an engine with work makes steps is what the watchdog is told of it, here as anywhere.
        while (old.use_count() > 1 && !stopping_loader_) {
            const EngineStatus now = old->status();
            progress_.at("waiting", now.running + now.queued > 0 ? now.steps : progress_.done + 1, 0);
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
        old.reset();
        std::shared_ptr<Engine> engine;
        std::string code, failure;
        try {
            if (make && !stopping_loader_) engine = make();
        } catch (const std::exception& e) {
            failure = e.what();
            code = failure.starts_with("insufficient memory:") ? "insufficient_memory" : "model_failed";
        }
        asio::post(io, [this, engine = std::move(engine), code, failure, installed = std::move(installed)]() mutable {
            loading_ = false;
            if (stopping) return loads_.note();
            failure_code_ = code;
            failure_ = failure;
            installed(std::move(engine));
            if (std::exchange(load_again_, false)) load_model();
            loads_.note();
        });
    });
}

/// One that wants a model, while it waits.
struct Application::Waiting {
    Waiting(Application& a, std::string p) : app(a), path(std::move(p)) { ++app.wanted_[path]; }
    ~Waiting() {
        if (--app.wanted_[path] > 0) return;
        app.wanted_.erase(path);
        app.loads_.note();  // it may be another model's turn
    }
    Application& app;
    std::string path;
};

asio::awaitable<std::shared_ptr<Engine>> Application::require_engine(std::optional<std::string> requested, Identity identity, LoadWaiter* waiter) {
    std::optional<std::string> path = model_file(requested.value_or(""));
    if (!path && state_ == ModelState::missing) path = config.model_path();
    if (!path) throw HttpError(404, "model_not_found", "There is no model '" + *requested + "'; GET /v1/models lists what there is.", "model");
    if (state_ != ModelState::missing) require_allowed(identity, model_id_of(*path));
    const Waiting waiting(*this, *path);
    const auto soon = [](int seconds) { return std::chrono::steady_clock::now() + std::chrono::seconds(seconds); };
    auto deadline = soon(config.load_wait_s), look = soon(1);
    std::uint64_t marks = progress_.marks;
    for (;;) {
        used();
        if (stopping) throw service_stopping();
        if (state_ == ModelState::ready && model_path_ == *path) co_return engine_;
        if (!loading_) {
            if (model_path_ == *path && (state_ == ModelState::failed || state_ == ModelState::missing)) throw_failure();
            if (state_ != ModelState::ready || !wanted_.contains(model_path_)) {
                load(*path);
                if (!loading_) continue;  // there is no such file any more
            }
        }
        if (std::chrono::steady_clock::now() >= deadline) throw HttpError(503, "model_loading", "The model is being loaded.", "", 2);
        co_await loads_.since(loads_.version(), waiter ? std::min(deadline, look) : deadline);
        if (!waiter || std::chrono::steady_clock::now() < look) continue;
        look = soon(1);
        if (waiter->exchange.disconnected()) throw HttpError(503, "client_left", "The client has left.");
        if (!waiter->stream || !loading_) continue;
        if (marks != std::exchange(marks, progress_.marks)) deadline = soon(config.load_wait_s);
        co_await waiter->tell(model_id_, progress_);
    }
}

void Application::require_allowed(const Identity& identity, const std::string& model) const {
    if (!config.tenant(identity.tenant).may_use(model))
        throw HttpError(404, "model_not_found", "This socket may not use the model '" + model + "'.", "model");
}

void Application::require_model(const Identity& identity) const {
    if (stopping) throw service_stopping();
    if (state_ == ModelState::loading) throw HttpError(503, "model_loading", "The model is being loaded.", "", 2);
    if (state_ == ModelState::missing || state_ == ModelState::failed) throw_failure();
    require_allowed(identity, model_id_);
}

void Application::throw_failure() const {
    HttpError error = state_ == ModelState::missing ? HttpError(503, "no_model", "There is no model yet; bring one in with: glm model import PATH")
                                                    : HttpError(503, failure_code_, failure_);
    error.should_retry = false;
    throw error;
}

double Application::idle_s() const {
    if (!runs.empty() || !wanted_.empty() || loading_) return 0;
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - used_).count();
}

/// Looks a few times per idle_unload_s; no timer runs without it.
void Application::watch_idle() {
    idle_timer_.cancel();
    if (config.idle_unload_s == 0 || stopping) return;
    idle_timer_.expires_after(std::chrono::milliseconds(std::max(250, config.idle_unload_s * 250)));
    idle_timer_.async_wait([this](boost::system::error_code error) {
        if (error) return;
        if (idle_s() >= config.idle_unload_s) unload();
        watch_idle();
    });
}

void Application::cancel_generations() {
    for (GenerationRun* run : runs) run->cancel();
}

void Application::shut_down() {
    stopping = true;
    stopping_loader_ = true;
    idle_timer_.cancel();
    memory_pressure.stop();
    if (loader_.joinable()) loader_.join();
    engine_.reset();
    if (snapshots) snapshots->join();  // it asks the storage
    storage.join();
    text_pool.join();
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
    if (is_busy(identity, id))
        throw HttpError(409, "conversation_busy", "Another response is in progress in '" + id + "'.", "", 1);
}

}  // namespace glmd
