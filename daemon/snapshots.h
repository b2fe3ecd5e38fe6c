#pragma once
// Between the engine's shelf and the files of storage/kv_snapshots.h: writes on one thread, reads on another.
#include <boost/asio/awaitable.hpp>
#include <boost/asio/thread_pool.hpp>
#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "engine/kv_shelf.h"
#include "storage/kv_snapshots.h"

namespace glmd {

class Snapshots final : public KvShelf {
public:
    /// exists(whose, session) is asked before each write, on the writing thread, and may wait: what the engine lays down of a
    /// session that was deleted meanwhile isn't kept.
    Snapshots(const KvSnapshotOptions& options, std::function<bool(const Identity&, const std::string&)> exists)
        : store_(KvSnapshotStore::open(options)), exists_(std::move(exists)) {}
    ~Snapshots() override { join(); }

    // The engine's thread.
    bool busy() const override { return writing_; }
    bool wants(const KvScope& scope, const std::string& session, const std::string& kind, int tokens, std::size_t bytes,
               double prefill_tokens_per_s) override;
    void put(const KvScope& scope, const std::string& session, const std::string& kind, std::vector<TokenId> tokens,
             std::vector<std::byte> blocks) override;

    // The I/O thread.
    /// Null where there is none.
    boost::asio::awaitable<std::shared_ptr<const KvImage>> load(const Identity& who, const std::string& session, const std::string& kind);
    /// After the session itself.
    void remove(const Identity& who, const std::string& session);
    /// Any thread: a session couldn't be written, since the disk is full.
    void make_room();
    KvSnapshotStore::Counts counts() { return store_->counts(); }
    /// After the engine is gone, and while exists() still answers.
    void join();

private:
    std::unique_ptr<KvSnapshotStore> store_;
    const std::function<bool(const Identity&, const std::string&)> exists_;
    std::atomic<bool> writing_{false};
    boost::asio::thread_pool write_pool_{1}, read_pool_{1};
};

}  // namespace glmd
