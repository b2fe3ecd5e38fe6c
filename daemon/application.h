#pragma once
// What the endpoints share: configuration, storage, the engine (once it is loaded) and what is going on.
// I/O thread only.
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <tuple>

#include "daemon/changes.h"
#include "daemon/config.h"
#include "daemon/energy_account.h"
#include "daemon/load_progress.h"
#include "daemon/memory_pressure.h"
#include "daemon/metrics.h"
#include "daemon/snapshots.h"
#include "daemon/storage_thread.h"
#include "engine/engine.h"
#include "storage/session_search.h"

namespace glmd {

class Background;
class GenerationRun;
class SummaryJob;

/// unloaded: idle for long, or making room; the next request loads it.
enum class ModelState { loading, ready, missing, failed, unloaded };

class Application {
public:
    Application(asio::io_context& io, Config config, std::unique_ptr<SessionStore> store);
    ~Application();

    asio::io_context& io;
    Config config;
    const std::shared_ptr<Metrics> metrics = std::make_shared<Metrics>();  // shared with the engine's callbacks
    SessionSearch search;            // the storage thread's, like the store
    StorageThread storage;
    std::shared_ptr<Snapshots> snapshots;  // null: none are kept
    asio::thread_pool text_pool{1};  // tokenizing
    const std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
    std::uint64_t requests = 0;
    int connections = 0;
    bool stopping = false;
    std::set<GenerationRun*> runs;   // kept by the runs themselves
    std::map<std::pair<Identity, std::string>, std::shared_ptr<Background>> background;  // kept by these, while they run
    std::map<std::pair<Identity, std::string>, std::shared_ptr<SummaryJob>> summaries;  // kept by these, while they are made; null: about to begin
    EnergyAccount energy;            // by the runs, too
    struct Retention {
        struct Amount {
            std::int64_t sessions = 0, bytes = 0;
        };
        Amount due, removed;         // at the last sweep and not removed then; since the start
    } retention;
    MemoryPressure memory_pressure{*this};

    /// Loads the configured model in the background. An engine that is there is let go first, when its last request has ended;
    /// unless it is the same model with the same settings.
    void load_model();
    /// The weights go, in the background; the next request brings them back.
    void unload();
    /// The model is in use now, or was until now.
    void used() { used_ = std::chrono::steady_clock::now(); }
    /// How long nothing was asked of the model.
    double idle_s() const;
    ModelState model_state() const { return state_; }
    const std::string& model_id() const { return model_id_; }
    /// Of the load that goes on; null: none does.
    const LoadProgress* loading() const { return loading_ ? &progress_ : nullptr; }
    const std::shared_ptr<Engine>& engine() const { return engine_; }
    /// The file of a model by its id; none without one. "default" and "" are the configured one.
    std::optional<std::string> model_file(const std::string& id) const;
    /// The engine of that model, loaded on demand. One model is in memory at a time: whoever wants another waits until nobody
    /// waits for this one, and its requests have ended. Throws HttpError: 503 when it took too long, failed or the waiter left, 404 without
    /// such a model, or when the tenant may not use it. Whoever is told of the load waits for as long as it gets on.
    asio::awaitable<std::shared_ptr<Engine>> require_engine(std::optional<std::string> requested, Identity identity, LoadWaiter* waiter = nullptr);
    /// Throws HttpError 503 unless a request would be answered without waiting for a load that may fail.
    void require_model(const Identity& identity) const;

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
    bool is_busy(const Identity& identity, const std::string& id) const { return busy_.contains({identity, id}); }

private:
    struct Waiting;
    void load(const std::string& path);
    /// Lets the engine go on the loader's thread, then runs make() there, if any, and installed() here.
    void replace_engine(std::function<std::shared_ptr<Engine>()> make, std::function<void(std::shared_ptr<Engine>)> installed);
    void watch_idle();
    [[noreturn]] void throw_failure() const;
    void require_allowed(const Identity& identity, const std::string& model) const;

    std::shared_ptr<Engine> engine_;
    std::string model_id_, model_path_, engine_text_, failure_code_, failure_;
    std::filesystem::file_time_type model_time_{};
    std::map<std::string, int> wanted_;           // requests that wait, by the model's path
    Changes loads_{io};                           // what they wait for
    asio::steady_timer idle_timer_{io};
    std::chrono::steady_clock::time_point used_ = std::chrono::steady_clock::now();
    ModelState state_ = ModelState::missing;
    std::thread loader_;
    std::atomic<bool> stopping_loader_{false};
    LoadProgress progress_;
    bool loading_ = false, load_again_ = false;
    std::set<std::pair<Identity, std::string>> busy_;
};

/// The id of a model file: its name without .gguf.
std::string model_id_of(const std::string& path);

}  // namespace glmd
