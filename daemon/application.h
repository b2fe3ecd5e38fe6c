#pragma once
// What the endpoints share: configuration, storage, the engine (once it is loaded) and what is going on.
// I/O thread only.
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <tuple>

#include "daemon/config.h"
#include "daemon/energy_account.h"
#include "daemon/metrics.h"
#include "daemon/storage_thread.h"
#include "engine/engine.h"

namespace glmd {

class Background;
class GenerationRun;

enum class ModelState { loading, ready, missing, failed };

class Application {
public:
    Application(asio::io_context& io, Config config, std::unique_ptr<SessionStore> store);
    ~Application();

    asio::io_context& io;
    Config config;
    const std::shared_ptr<Metrics> metrics = std::make_shared<Metrics>();  // shared with the engine's callbacks
    StorageThread storage;
    asio::thread_pool text_pool{1};  // tokenizing
    const std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
    std::uint64_t requests = 0;
    int connections = 0;
    bool stopping = false;
    std::set<GenerationRun*> runs;   // kept by the runs themselves
    std::map<std::pair<Identity, std::string>, std::shared_ptr<Background>> background;  // kept by these, while they run
    EnergyAccount energy;            // by the runs, too

    /// Loads in the background; an engine that is there is let go first (its requests finish, or are cancelled after 10 s).
    void load_model();
    ModelState model_state() const { return state_; }
    const std::string& model_id() const { return model_id_; }
    const std::shared_ptr<Engine>& engine() const { return engine_; }
    /// Throws HttpError: 503 while loading or without a model, 404 when `requested` is another model, or one that the tenant may not use.
    std::shared_ptr<Engine> require_engine(const std::optional<std::string>& requested, const Identity& identity);

    void cancel_generations();
    /// Cancels what runs, refuses what comes, joins the helper threads. Call when the connections are gone.
    void shut_down();

    /// One response at a time in a conversation: holds the name while it lives. Throws HttpError 409.
    class Busy {
    public:
        Busy() = default;
        Busy(Application& app, const Identity& identity, const std::string& id);
        Busy(Busy&& other) noexcept : app_(std::exchange(other.app_, nullptr)), key_(std::move(other.key_)) {}
        Busy& operator=(Busy&& other) noexcept {
            std::swap(app_, other.app_);
            std::swap(key_, other.key_);
            return *this;
        }
        ~Busy();

    private:
        Application* app_ = nullptr;
        std::pair<Identity, std::string> key_;
    };
    void require_idle(const Identity& identity, const std::string& id) const;

private:
    std::shared_ptr<Engine> engine_;
    std::string model_id_, failure_code_, failure_;
    ModelState state_ = ModelState::missing;
    std::thread loader_;
    std::atomic<bool> stopping_loader_{false};
    bool loading_ = false, load_again_ = false;
    std::set<std::pair<Identity, std::string>> busy_;
};

/// The id of a model file: its name without .gguf.
std::string model_id_of(const std::string& path);

}  // namespace glmd
