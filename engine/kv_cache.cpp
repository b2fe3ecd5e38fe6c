// The blocks that can be found form one tree per scope: a block's parent is the one that holds the 32 tokens before its own.
// A parent is used no earlier and no less than its children, so what was used least recently is always a leaf, and nothing
// becomes unreachable. A partly filled block is a leaf that others copy from, never share: who uses a block may write into it
// only behind the tokens it was filled with, and only while it can't be found.
#include "engine/kv_cache.h"

#include <algorithm>
#include <stdexcept>

namespace glmd {

KvCache::KvCache(int blocks) : blocks_(blocks) {
    for (int i = blocks - 1; i >= 0; --i) free_.push_back(i);
}

std::uint64_t KvCache::root(const KvScope& scope) {
    const auto [at, fresh] = scopes_.try_emplace(scope);
    if (fresh) {
        at->second.first = ++serials_;
        scope_names_[serials_] = scope;
    }
    return at->second.first;
}

/// The block behind `parent` that holds exactly these tokens, -1 without one.
std::int32_t KvCache::child(std::uint64_t parent, std::span<const TokenId> tokens) const {
    for (auto [at, end] = children_.equal_range(parent); at != end; ++at) {
        const Block& b = blocks_[at->second];
        if (b.count == static_cast<int>(tokens.size()) && std::equal(tokens.begin(), tokens.end(), b.tokens.begin())) return at->second;
    }
    return -1;
}

void KvCache::put(std::int32_t block, std::uint64_t parent, std::span<const TokenId> tokens) {
    Block& b = blocks_[block];
    b.serial = ++serials_;
    b.parent = parent;
    b.count = static_cast<int>(tokens.size());
    std::copy(tokens.begin(), tokens.end(), b.tokens.begin());
    children_.emplace(parent, block);
    if (const auto s = scope_names_.find(parent); s != scope_names_.end()) ++scopes_[s->second].second;
}

void KvCache::forget(std::int32_t block) {
    Block& b = blocks_[block];
    auto [at, end] = children_.equal_range(b.parent);
    while (at != end && at->second != block) ++at;
    if (at != end) children_.erase(at);
    if (const auto s = scope_names_.find(b.parent); s != scope_names_.end())
        if (--scopes_[s->second].second == 0) {  // a scope without blocks is forgotten too
            scopes_.erase(s->second);
            scope_names_.erase(s);
        }
    b.serial = b.parent = 0;
    b.count = 0;
}

bool KvCache::take(int count, std::vector<std::int32_t>& out) {
    if (count > available()) return false;
    for (int i = 0; i < count; ++i) {
        if (free_.empty()) {
            const std::int32_t oldest = idle_.begin()->second;
            idle_.erase(idle_.begin());
            forget(oldest);
            free_.push_back(oldest);
        }
        blocks_[free_.back()].users = 1;
        out.push_back(free_.back());
        free_.pop_back();
    }
    return true;
}

KvCache::Hit KvCache::find(const KvScope& scope, std::span<const TokenId> tokens, std::vector<std::int32_t>& out) {
    Hit hit;
    const auto s = scopes_.find(scope);
    if (s == scopes_.end()) return hit;
    auto use = [&](std::int32_t block) {
        Block& b = blocks_[block];
        if (b.users++ == 0) idle_.erase({b.used, block});
    };
    std::uint64_t at = s->second.first;
    std::span<const TokenId> rest = tokens;
    while (rest.size() >= std::size_t(kv_block_tokens)) {
        const std::int32_t next = child(at, rest.first(kv_block_tokens));
        if (next < 0) break;
        use(next);
        out.push_back(next);
        at = blocks_[next].serial;
        hit.tokens += kv_block_tokens;
        rest = rest.subspan(kv_block_tokens);
    }
    for (auto [it, end] = children_.equal_range(at); it != end; ++it) {
        const Block& b = blocks_[it->second];
        const auto most = std::min(rest.size(), std::size_t(b.count));
        const auto same = static_cast<int>(std::mismatch(rest.begin(), rest.begin() + most, b.tokens.begin()).first - rest.begin());
        if (same > hit.copy_tokens) hit.copy_tokens = same, hit.copy_from = it->second;
    }
    if (hit.copy_from >= 0) use(hit.copy_from);
    return hit;
}

void KvCache::register_blocks(const KvScope& scope, std::span<const TokenId> tokens, std::span<const std::int32_t> blocks, bool ending) {
    std::uint64_t parent = 0;
    for (std::size_t i = 0, done = 0; done < tokens.size() && i < blocks.size(); ++i) {
        const auto part = tokens.subspan(done, std::min(tokens.size() - done, std::size_t(kv_block_tokens)));
        const bool full = part.size() == std::size_t(kv_block_tokens);
        if (!full && !ending) return;
        if (i == 0) parent = root(scope);
        Block& own = blocks_[blocks[i]];
        if (own.serial == 0) {
            const std::int32_t other = child(parent, part);
            if (other < 0) {
                // What this one continues has served its purpose; and what says more than this one is enough.
                std::vector<std::int32_t> shorter;
                const auto count = static_cast<int>(part.size());
                for (auto [at, end] = children_.equal_range(parent); at != end; ++at) {
                    const Block& b = blocks_[at->second];
                    if (!std::equal(b.tokens.begin(), b.tokens.begin() + std::min(b.count, count), part.begin())) continue;
                    if (b.count > count) return;
                    if (b.users == 0) shorter.push_back(at->second);
                }
                put(blocks[i], parent, part);
                for (const std::int32_t b : shorter) {
                    idle_.erase({blocks_[b].used, b});
                    forget(b);
                    free_.push_back(b);
                }
            } else if (!ending) {
                return;  // the same tokens are there already; one's own copy goes when the sequence ends
            } else {
                // Used now, so that it stays at least as long as what will hang behind it.
                Block& o = blocks_[other];
                if (o.users == 0) {
                    idle_.erase({o.used, other});
                    o.used = uses_ + 1 + (blocks.size() - i);
                    idle_.emplace(o.used, other);
                }
                parent = o.serial;
                done += part.size();
                continue;
            }
        }
        parent = own.serial;
        done += part.size();
    }
}

void KvCache::share(const KvScope& scope, std::span<const TokenId> tokens, std::span<const std::int32_t> blocks) {
    register_blocks(scope, tokens, blocks, false);
}

void KvCache::keep(const KvScope& scope, std::span<const TokenId> tokens, std::vector<std::int32_t>& blocks) {
    register_blocks(scope, tokens, blocks, true);
    give_back(blocks);
}

void KvCache::give_back(std::vector<std::int32_t>& blocks) {
    const std::uint64_t last = uses_ += blocks.size() + 1;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        Block& b = blocks_[blocks[i]];
        b.used = last - i;  // the first block of the sequence is the last to go
        if (--b.users > 0) continue;
        if (b.serial == 0) free_.push_back(blocks[i]);
        else idle_.emplace(b.used, blocks[i]);
    }
    blocks.clear();
}

void KvCache::give_back(std::int32_t block) {
    Block& b = blocks_[block];
    if (--b.users > 0) return;
    // It was read, not extended: it keeps its place, behind its parents.
    if (b.serial == 0) free_.push_back(block);
    else idle_.emplace(b.used, block);
}

void KvCache::clear() {
    for (const auto& [used, block] : idle_) {
        forget(block);
        free_.push_back(block);
    }
    idle_.clear();
}

void KvCache::check() const {
    auto require = [](bool good, const char* what) {
        if (!good) throw std::logic_error(std::string("KvCache: ") + what);
    };
    std::map<std::uint64_t, const Block*> by_serial;
    for (const Block& b : blocks_)
        if (b.serial) require(by_serial.emplace(b.serial, &b).second, "a serial twice");
    std::set<std::int32_t> free(free_.begin(), free_.end());
    require(free.size() == free_.size(), "a block is free twice");
    for (int i = 0; i < total(); ++i) {
        const Block& b = blocks_[i];
        require(b.users >= 0, "given back too often");
        require(free.contains(i) == (b.users == 0 && b.serial == 0), "free, and not");
        require(idle_.contains({b.used, i}) == (b.users == 0 && b.serial != 0), "idle, and not");
        if (!b.serial || scope_names_.contains(b.parent)) continue;
        const auto parent = by_serial.find(b.parent);
        require(parent != by_serial.end(), "a block without its parent");
        require(parent->second->count == kv_block_tokens, "behind a block that isn't full");
        if (b.users == 0 && parent->second->users == 0) require(parent->second->used > b.used, "a parent that goes before its child");
    }
    require(children_.size() == by_serial.size(), "the tree and the blocks differ");
    require(idle_.size() + free_.size() <= blocks_.size(), "more blocks than there are");
}

}  // namespace glmd
