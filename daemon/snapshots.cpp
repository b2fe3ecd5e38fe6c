#include "daemon/snapshots.h"

#include "daemon/storage_thread.h"

namespace glmd {

bool Snapshots::removed(const Key& key) {
    std::lock_guard lock(mutex_);
    return removed_.contains(key);
}

bool Snapshots::wants(const KvScope& scope, const std::string& session, const std::string& kind, int tokens, std::size_t bytes,
                      double prefill_tokens_per_s) {
    const Identity who{scope.first, scope.second};
    return !removed({who, session}) && store_->wants(who, session, kind, std::size_t(tokens), bytes, prefill_tokens_per_s);
}

void Snapshots::put(const KvScope& scope, const std::string& session, const std::string& kind, std::vector<TokenId> tokens,
                    std::vector<std::byte> blocks) {
    writing_.wait(true);
    writing_ = true;
    asio::post(write_pool_, [this, who = Identity{scope.first, scope.second}, session, kind, tokens = std::move(tokens),
                             blocks = std::move(blocks)] {
        // A removal that comes from now on is behind this one.
        if (!removed({who, session})) store_->put(who, session, kind, tokens, blocks);
        writing_ = false;
        writing_.notify_all();
    });
}

asio::awaitable<std::shared_ptr<const KvImage>> Snapshots::load(const Identity& who, const std::string& session, const std::string& kind) {
    auto work = [&] { return store_->get(who, session, kind); };
    const std::shared_ptr<const KvSnapshot> found = co_await run_on(read_pool_, work);
    if (!found) co_return nullptr;
    auto image = std::make_shared<KvImage>();
    image->tokens = found->tokens;
    image->blocks = found->data;
    image->owner = found;
    co_return image;
}

void Snapshots::remove(const Identity& who, const std::string& session) {
    {
        std::lock_guard lock(mutex_);
        removed_.emplace(who, session);
    }
    asio::post(write_pool_, [this, who, session] { store_->remove(who, session); });
}

void Snapshots::join() {
    write_pool_.join();
    read_pool_.join();
}

}  // namespace glmd
