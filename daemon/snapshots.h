#pragma once
// Between the engine's shelf and the files of storage/kv_snapshots.h: writes on one thread, reads on another.
#include <boost/asio/awaitable.hpp>
#include <boost/asio/thread_pool.hpp>
#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "engine/kv_shelf.h"
#include "storage/kv_snapshots.h"

namespace glmd {

class Snapshots final : public KvShelf {
public:
    explicit Snapshots(const KvSnapshotOptions& options) : store_(KvSnapshotStore::open(options)) {}
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
    /// For good: a session's id never comes again, so what the engine still lays down of it is refused.
    void remove(const Identity& who, const std::string& session);
    KvSnapshotStore::Counts counts() { return store_->counts(); }
    /// After the engine is gone.
    void join();

private:
    using Key = std::pair<Identity, std::string>;
    bool removed(const Key& key);

    std::unique_ptr<KvSnapshotStore> store_;
    std::mutex mutex_;
    std::set<Key> removed_;  // guarded by the mutex
    std::atomic<bool> writing_{false};
    boost::asio::thread_pool write_pool_{1}, read_pool_{1};
};

}  // namespace glmd
