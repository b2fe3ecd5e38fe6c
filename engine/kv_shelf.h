#pragma once
// Where the engine lays the keys and values of sessions at rest, and finds them again. The daemon keeps them on disk.
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer.h"

namespace glmd {

/// Whose tokens they are: nothing is found across scopes.
using KvScope = std::pair<std::uint32_t, std::string>;  // uid, tenant

/// Keys and values of a session's tokens, from the first on.
struct KvImage {
    std::vector<TokenId> tokens;
    std::span<const std::byte> blocks;    // kv_blocks_for(tokens) of KvShape::block_bytes() each
    std::shared_ptr<const void> owner;    // of the bytes
};

/// Called on the engine's thread; `kind` is ModelInfo::kv_kind.
class KvShelf {
public:
    virtual ~KvShelf() = default;
    /// Still writing what came last: ask later.
    virtual bool busy() const = 0;
    virtual bool wants(const KvScope& scope, const std::string& session, const std::string& kind, int tokens, std::size_t bytes,
                       double prefill_tokens_per_s) = 0;
    /// Returns before it is written; waits for the one before.
    virtual void put(const KvScope& scope, const std::string& session, const std::string& kind, std::vector<TokenId> tokens,
                     std::vector<std::byte> blocks) = 0;
};

}  // namespace glmd
