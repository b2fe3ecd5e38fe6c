#include "daemon/snapshots.h"

#include "daemon/storage_thread.h"

namespace glmd {

bool Snapshots::wants(const KvScope& scope, const std::string& session, const std::string& kind, int tokens, std::size_t bytes,
                      double prefill_tokens_per_s) {
    return store_->wants({scope.first, scope.second}, session, kind, std::size_t(tokens), bytes, prefill_tokens_per_s);
}

void Snapshots::put(const KvScope& scope, const std::string& session, const std::string& kind, std::vector<TokenId> tokens,
                    std::vector<std::byte> blocks) {
    writing_.wait(true);
    writing_ = true;
    asio::post(write_pool_, [this, who = Identity{scope.first, scope.second}, session, kind, tokens = std::move(tokens),
                             blocks = std::move(blocks)] {
        // A session that is deleted after this answer is removed by a task behind this one.
        if (exists_(who, session)) store_->put(who, session, kind, tokens, blocks);
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
    asio::post(write_pool_, [this, who, session] { store_->remove(who, session); });
}

void Snapshots::make_room() {
    asio::post(write_pool_, [this] { store_->make_room(); });
}

void Snapshots::join() {
    write_pool_.join();
    read_pool_.join();
}

}  // namespace glmd
