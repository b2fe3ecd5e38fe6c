#pragma once
// Keys and values of sessions at rest, one file each, and an index that says whose they are. A cache: whatever is torn, foreign
// or lost is as if it had never been, and only costs the time to compute it again. Flash wears, so a snapshot is written only
// when that time is longer than writing and reading take, and within a daily budget.
//
// A file: "GLMDKV01", bytes of the fingerprint, tokens, bytes of data (each 8 bytes), then the three, the data padded to 8 bytes
// at an offset of a multiple of 64. The index has the hash of it all. Files appear by rename, after fsync. With a key all that is
// sealed as a libsodium secretstream under a key of its own, which the index keeps wrapped: without its row a file is noise.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "storage/session_store.h"

namespace glmd {

struct KvSnapshotOptions {
    std::string directory;                 // made if absent, 0700; this store's alone
    std::int64_t max_bytes = std::int64_t(2) << 30;         // of all files; the least recently used go
    std::int64_t daily_write_bytes = std::int64_t(8) << 30;
    std::function<std::int64_t()> day;     // for tests; unset: days since 1970
    std::shared_ptr<const MasterKey> key;  // null: files are plain
    std::function<std::int64_t()> room;    // for tests; unset: what the disk has free but for a tenth (at most 1 GiB), which sessions have
};

/// What was there at a time, checked; the bytes stay readable while it lives.
class KvSnapshot {
public:
    virtual ~KvSnapshot() = default;
    std::vector<std::int32_t> tokens;
    std::span<const std::byte> data;
};

/// Any thread. What fails is logged by nobody and costs nothing but the snapshot; only open() throws StorageError.
class KvSnapshotStore {
public:
    static std::unique_ptr<KvSnapshotStore> open(const KvSnapshotOptions& options);
    virtual ~KvSnapshotStore() = default;

    /// Whether it pays to keep that many tokens of that session, beyond those that a snapshot has already. What is left out adds up:
    /// when it has cost as much as a snapshot does, the next one is wanted, however little the session grew.
    virtual bool wants(const Identity&, std::string_view session, std::string_view fingerprint, std::size_t tokens, std::size_t bytes,
                       double prefill_tokens_per_s) = 0;
    /// Replaces the session's snapshot; false: it couldn't be written, or may not.
    virtual bool put(const Identity&, std::string_view session, std::string_view fingerprint, std::span<const std::int32_t> tokens,
                     std::span<const std::byte> data) = 0;
    /// Null: there is none of this session and this model. One that is torn is removed.
    virtual std::shared_ptr<const KvSnapshot> get(const Identity&, std::string_view session, std::string_view fingerprint) = 0;
    virtual void remove(const Identity&, std::string_view session) = 0;
    /// The disk is full, and something better than a cache wants to be on it: the least recently used go until there is room.
    virtual void make_room() = 0;

    struct Counts {
        std::int64_t files = 0, bytes = 0;
        std::int64_t written_bytes = 0, written_today_bytes = 0;  // since the store was opened; of today's budget
        std::int64_t loaded = 0, refused = 0;                     // snapshots read; torn ones found
    };
    virtual Counts counts() = 0;
};

}  // namespace glmd
