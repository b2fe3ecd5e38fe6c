// Peculiar: the index may lose its last rows in a power cut (synchronous=NORMAL), because a file without a row, and a row without
// a file, are swept at the next start. The mutex guards the index alone: files are read and written outside of it.
#include "storage/kv_snapshots.h"

#include <fcntl.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <set>

#include "storage/internal/file.h"
#include "storage/internal/sqlite.h"
#include "storage/sealing.h"

namespace glmd {
namespace fs = std::filesystem;
namespace {

using sqlite::Blob;
using sqlite::Transaction;

constexpr char magic[] = "GLMDKV01", sealed_magic[] = "GLMDKVS1";
constexpr std::size_t sealed_piece = 64 << 10, sealed_extra = crypto_secretstream_xchacha20poly1305_ABYTES;
constexpr std::size_t sealed_head = 8 + crypto_secretstream_xchacha20poly1305_HEADERBYTES;
constexpr std::size_t alignment = 64;
constexpr std::int64_t most_reserved = std::int64_t(1) << 30;  // for sessions
constexpr double first_guess_bytes_per_s = 100e6;  // of the disk, until something was written

constexpr const char* schema =
    "CREATE TABLE snapshot (uid INTEGER NOT NULL, tenant TEXT NOT NULL, session TEXT NOT NULL, fingerprint TEXT NOT NULL,"
    " file TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL, tokens INTEGER NOT NULL, hash INTEGER NOT NULL, used INTEGER NOT NULL,"
    " key BLOB NOT NULL,"  // wrapped; empty: the file is plain
    " owed INTEGER NOT NULL DEFAULT 0,"  // tokens that were left out of a snapshot since, counted each time
    " PRIMARY KEY (uid, tenant, session)) STRICT;"
    "CREATE INDEX snapshot_used ON snapshot (used);"
    "CREATE TABLE written (day INTEGER PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;"
    "PRAGMA user_version = 3";
constexpr std::int64_t schema_version = 3;

/// Against torn and rotten files, not against forgers. Any one changed word changes its lane, and so the end.
class Hash {
public:
    void add(std::span<const std::byte> bytes) {
        for (; bytes.size() >= 8 * lanes_.size(); bytes = bytes.subspan(8 * lanes_.size()))
            for (std::size_t i = 0; i < lanes_.size(); ++i) mix(lanes_[i], bytes.data() + 8 * i, 8);
        for (; !bytes.empty(); bytes = bytes.subspan(std::min<std::size_t>(8, bytes.size())))
            mix(lanes_[0], bytes.data(), std::min<std::size_t>(8, bytes.size()));
    }
    std::int64_t value() const {
        std::uint64_t all = 0;
        for (const std::uint64_t lane : lanes_) all = (std::rotl(all, 23) ^ lane) * odd;
        return std::int64_t(all ^ all >> 29);
    }

private:
    static constexpr std::uint64_t odd = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
    static void mix(std::uint64_t& lane, const std::byte* at, std::size_t size) {
        std::uint64_t word = 0;
        std::memcpy(&word, at, size);
        lane = std::rotl((lane ^ word) * odd, 31);
    }
    std::array<std::uint64_t, 4> lanes_{1, 2, 3, 4};
};

const unsigned char* unsigned_bytes(const std::byte* at) { return reinterpret_cast<const unsigned char*>(at); }
unsigned char* unsigned_bytes(std::byte* at) { return reinterpret_cast<unsigned char*>(at); }

/// A whole file in memory.
class Image : public KvSnapshot {
public:
    static std::size_t data_offset(std::size_t fingerprint, std::size_t tokens) {
        return (32 + fingerprint + 4 * tokens + alignment - 1) / alignment * alignment;
    }

protected:
    /// False: it isn't of that fingerprint, or torn.
    bool parse(std::span<const std::byte> all, std::string_view fingerprint) {
        if (all.size() < 32 || std::memcmp(all.data(), magic, 8) != 0) return false;
        std::array<std::uint64_t, 3> sizes;
        std::memcpy(sizes.data(), all.data() + 8, sizeof sizes);
        const auto [name, count, size] = sizes;
        if (name != fingerprint.size() || count > all.size() / 4 || size > all.size()) return false;
        const std::size_t at = data_offset(name, count);
        if (at + size > all.size() || std::memcmp(all.data() + 32, fingerprint.data(), name) != 0) return false;
        tokens.resize(count);
        std::memcpy(tokens.data(), all.data() + 32 + name, 4 * count);
        data = all.subspan(at, size);
        return true;
    }
};

class Mapping {
public:
    Mapping(const std::string& path, std::int64_t bytes) {
        const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        struct stat status{};
        if (file < 0 || ::fstat(file, &status) != 0 || status.st_size != bytes || bytes <= 0) return;
        void* start = ::mmap(nullptr, std::size_t(bytes), PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
        if (start != MAP_FAILED) all = {static_cast<const std::byte*>(start), std::size_t(bytes)};
    }
    ~Mapping() {
        if (!all.empty()) ::munmap(const_cast<std::byte*>(all.data()), all.size());
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    std::span<const std::byte> all;  // empty: there is no such file
};

class Mapped final : public Image {
public:
    Mapped(const std::string& path, std::int64_t bytes) : file_(path, bytes) {}
    /// False: the file isn't what the index says it is.
    bool open(std::int64_t hash, std::string_view fingerprint) {
        Hash found;
        found.add(file_.all);
        return found.value() == hash && parse(file_.all, fingerprint);
    }

private:
    Mapping file_;
};

class Decrypted final : public Image {
public:
    bool open(const std::string& path, std::int64_t bytes, const SecretKey& key, std::string_view fingerprint) {
        const Mapping file(path, bytes);
        if (file.all.size() < sealed_head || std::memcmp(file.all.data(), sealed_magic, 8) != 0) return false;
        crypto_secretstream_xchacha20poly1305_state stream;
        const Wiped wiped{&stream, sizeof stream};
        if (crypto_secretstream_xchacha20poly1305_init_pull(&stream, unsigned_bytes(file.all.data() + 8), key.data()) != 0) return false;
        plain_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, (file.all.size() + alignment - 1) / alignment * alignment)));
        if (!plain_) return false;
        std::size_t size = 0;
        unsigned char tag = 0;
        for (auto rest = file.all.subspan(sealed_head); !rest.empty();) {
            const std::size_t piece = std::min(rest.size(), sealed_piece + sealed_extra);
            unsigned long long got = 0;
            if (tag == crypto_secretstream_xchacha20poly1305_TAG_FINAL || piece < sealed_extra) return false;
            if (crypto_secretstream_xchacha20poly1305_pull(&stream, unsigned_bytes(plain_.get() + size), &got, &tag, unsigned_bytes(rest.data()), piece,
                                                           nullptr, 0) != 0)
                return false;
            size += got;
            rest = rest.subspan(piece);
        }
        return tag == crypto_secretstream_xchacha20poly1305_TAG_FINAL && parse({plain_.get(), size}, fingerprint);
    }

private:
    struct Wiped {
        void* at;
        std::size_t size;
        ~Wiped() { sodium_memzero(at, size); }
    };
    struct Free {
        void operator()(std::byte* at) const { std::free(at); }
    };
    std::unique_ptr<std::byte, Free> plain_;
};

bool write_all(int file, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const auto done = ::write(file, bytes.data(), bytes.size());
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        bytes = bytes.subspan(std::size_t(done));
    }
    return true;
}

/// Writes a file of two parts as one stream of pieces.
class SealedWriter {
public:
    SealedWriter(int file, const SecretKey& key) : file_(file) {
        crypto_secretstream_xchacha20poly1305_init_push(&stream_, unsigned_bytes(sealed_.data() + 8), key.data());
        std::memcpy(sealed_.data(), sealed_magic, 8);
        good_ = write_all(file_, std::span(sealed_).first(sealed_head));
    }
    ~SealedWriter() { sodium_memzero(&stream_, sizeof stream_); }
    void add(std::span<const std::byte> bytes) {
        while (!bytes.empty() && good_) {
            if (plain_.size() == sealed_piece) push(crypto_secretstream_xchacha20poly1305_TAG_MESSAGE);
            const std::size_t some = std::min(bytes.size(), sealed_piece - plain_.size());
            plain_.insert(plain_.end(), bytes.begin(), bytes.begin() + std::ptrdiff_t(some));
            bytes = bytes.subspan(some);
        }
    }
    bool end() {
        push(crypto_secretstream_xchacha20poly1305_TAG_FINAL);
        return good_;
    }
    static std::size_t size(std::size_t plain) { return sealed_head + plain + (plain + sealed_piece - 1) / sealed_piece * sealed_extra; }

private:
    void push(unsigned char tag) {
        crypto_secretstream_xchacha20poly1305_push(&stream_, unsigned_bytes(sealed_.data()), nullptr, unsigned_bytes(plain_.data()), plain_.size(),
                                                   nullptr, 0, tag);
        good_ = good_ && write_all(file_, std::span(sealed_).first(plain_.size() + sealed_extra));
        plain_.clear();
    }

    int file_;
    crypto_secretstream_xchacha20poly1305_state stream_;
    std::vector<std::byte> plain_, sealed_ = std::vector<std::byte>(sealed_piece + sealed_extra);
    bool good_ = true;
};

/// What a file's key is wrapped with: it opens that file of that session only.
std::string key_place(std::string_view session, std::string_view file) { return std::string("kv|").append(session).append("|").append(file); }

#define OWNED "uid = ?1 AND tenant = ?2 AND session = ?3"

class Store final : public KvSnapshotStore {
public:
    explicit Store(const KvSnapshotOptions& options) : options_(options), db_(options.directory + "/index.db") {
        db_.script("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON");
        if (db_.integer("PRAGMA user_version") == 0) db_.script(schema);
        if (db_.integer("PRAGMA user_version") != schema_version) throw StorageError("the snapshots are of another version");
        sweep();
    }

    bool wants(const Identity& who, std::string_view session, std::string_view fingerprint, std::size_t tokens, std::size_t bytes,
               double prefill_tokens_per_s) override {
        std::lock_guard lock(mutex_);
        try {
            if (!may_write(bytes) || prefill_tokens_per_s <= 0) return false;
            std::size_t known = 0, owed = 0;
            {
                auto query = db_.query("SELECT tokens, owed FROM snapshot WHERE " OWNED " AND fingerprint = ?4", who.uid, who.tenant, session,
                                       fingerprint);
                if (query.step()) known = std::size_t(query.integer(0)), owed = std::size_t(query.integer(1));
            }
            const std::size_t fresh = tokens - std::min(tokens, known);
            const double saved_s = double(fresh + owed) / prefill_tokens_per_s;
            if (fresh > 0 && saved_s > 2 * double(bytes) / bytes_per_s_) return true;  // it is written, and read
            if (fresh > 0 && known > 0) db_.run("UPDATE snapshot SET owed = owed + ?4 WHERE " OWNED, who.uid, who.tenant, session, fresh);
            return false;
        } catch (const StorageError&) {
            return false;
        }
    }

    bool put(const Identity& who, std::string_view session, std::string_view fingerprint, std::span<const std::int32_t> tokens,
             std::span<const std::byte> data) override try {
        std::vector<std::byte> head(Image::data_offset(fingerprint.size(), tokens.size()));
        const std::array<std::uint64_t, 3> sizes{fingerprint.size(), tokens.size(), data.size()};
        std::memcpy(head.data(), magic, 8);
        std::memcpy(head.data() + 8, sizes.data(), sizeof sizes);
        std::memcpy(head.data() + 32, fingerprint.data(), fingerprint.size());
        std::memcpy(head.data() + 32 + fingerprint.size(), tokens.data(), tokens.size_bytes());
        const std::size_t plain = head.size() + data.size(), bytes = options_.key ? SealedWriter::size(plain) : plain;
        {
            std::lock_guard lock(mutex_);
            if (!may_write(bytes)) return false;
            // Before the write: what failed in the middle has worn the flash, too.
            db_.run("INSERT INTO written VALUES (?1, ?2) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes", today(), bytes);
            written_ += std::int64_t(bytes);
            drop(who, session);
            while (stored() + std::int64_t(bytes) > options_.max_bytes || room() < std::int64_t(bytes))
                if (!drop_oldest()) break;
        }
        Hash hash;
        if (!options_.key) {
            hash.add(head);
            hash.add(data);
        }
        const SecretKey key = options_.key ? SecretKey::random() : SecretKey();
        const std::string name = new_id("kv_"), path = options_.directory + "/" + name, temporary = path + ".tmp";
        const auto begun = std::chrono::steady_clock::now();
        bool good;
        {
            const File file(::open(temporary.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600));
            good = file >= 0 && write(file, head, data, key) && ::fsync(file) == 0;
        }
        good = good && ::rename(temporary.c_str(), path.c_str()) == 0 && synced(options_.directory, O_RDONLY | O_DIRECTORY);
        if (!good) {
            ::unlink(temporary.c_str());
            ::unlink(path.c_str());
            return false;
        }
        const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
        std::lock_guard lock(mutex_);
        if (bytes >= 1 << 20) bytes_per_s_ = double(bytes) / std::max(took, 1e-6);
        drop(who, session);
        db_.run("INSERT INTO snapshot VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, (SELECT coalesce(max(used), 0) + 1 FROM snapshot), ?9, 0)", who.uid,
                who.tenant, session, fingerprint, name, bytes, tokens.size(), hash.value(),
                Blob{options_.key ? options_.key->wrap(who, key, key_place(session, name)) : std::string()});
        return true;
    } catch (const StorageError&) {
        return false;  // a file without a row goes at the next start
    }

    std::shared_ptr<const KvSnapshot> get(const Identity& who, std::string_view session, std::string_view fingerprint) override try {
        std::string name, wrapped;
        std::int64_t bytes = 0, hash = 0;
        {
            std::lock_guard lock(mutex_);
            {
                auto query = db_.query("SELECT file, bytes, hash, key FROM snapshot WHERE " OWNED " AND fingerprint = ?4", who.uid, who.tenant,
                                       session, fingerprint);
                if (!query.step()) return nullptr;
                name = query.text(0);
                bytes = query.integer(1);
                hash = query.integer(2);
                wrapped = query.blob(3);
            }
            db_.run("UPDATE snapshot SET used = (SELECT max(used) + 1 FROM snapshot) WHERE " OWNED, who.uid, who.tenant, session);
        }
        const std::shared_ptr<const KvSnapshot> found = read(who, session, name, bytes, hash, wrapped, fingerprint);
        std::lock_guard lock(mutex_);
        if (found) {
            ++loaded_;
            return found;
        }
        ++refused_;
        if (db_.run("DELETE FROM snapshot WHERE file = ?1", name) > 0) unlink(name);
        return nullptr;
    } catch (const StorageError&) {
        return nullptr;
    }

    void remove(const Identity& who, std::string_view session) override {
        std::lock_guard lock(mutex_);
        try {
            drop(who, session);
            db_.truncate_wal();  // its key is in there
        } catch (const StorageError&) {
        }
    }

    void make_room() override {
        std::lock_guard lock(mutex_);
        try {
            while (room() <= 0 && drop_oldest()) {
            }
        } catch (const StorageError&) {
        }
    }

    Counts counts() override {
        std::lock_guard lock(mutex_);
        try {
            return {db_.integer("SELECT count(*) FROM snapshot"), stored(), written_, written_today(), loaded_, refused_};
        } catch (const StorageError&) {
            return {};
        }
    }

private:
    bool write(int file, std::span<const std::byte> head, std::span<const std::byte> data, const SecretKey& key) const {
        if (!options_.key) return write_all(file, head) && write_all(file, data);
        SealedWriter writer(file, key);
        writer.add(head);
        writer.add(data);
        return writer.end();
    }

    /// Null: torn, foreign, or of another key.
    std::shared_ptr<const KvSnapshot> read(const Identity& who, std::string_view session, const std::string& name, std::int64_t bytes,
                                           std::int64_t hash, std::string_view wrapped, std::string_view fingerprint) const {
        const std::string path = options_.directory + "/" + name;
        if (!options_.key) {
            auto found = std::make_shared<Mapped>(path, bytes);
            return found->open(hash, fingerprint) ? found : nullptr;
        }
        SecretKey key;
        try {
            key = options_.key->unwrap(who, wrapped, key_place(session, name));
        } catch (const StorageError&) {
            return nullptr;
        }
        auto found = std::make_shared<Decrypted>();
        return found->open(path, bytes, key, fingerprint) ? found : nullptr;
    }

    std::int64_t today() const { return options_.day ? options_.day() : std::int64_t(std::time(nullptr)) / 86400; }
    std::int64_t stored() { return db_.integer("SELECT coalesce(sum(bytes), 0) FROM snapshot"); }
    std::int64_t written_today() {
        auto query = db_.query("SELECT bytes FROM written WHERE day = ?1", today());
        return query.step() ? query.integer(0) : 0;
    }
    std::int64_t room() const {
        if (options_.room) return options_.room();
        std::error_code error;
        const fs::space_info disk = fs::space(options_.directory, error);
        return error ? 0 : std::int64_t(disk.available) - std::min(std::int64_t(disk.capacity) / 10, most_reserved);
    }
    bool may_write(std::size_t size) {
        const auto bytes = std::int64_t(size);
        return bytes <= options_.max_bytes && written_today() + bytes <= options_.daily_write_bytes && bytes <= room() + stored();
    }
    void unlink(const std::string& name) { ::unlink((options_.directory + "/" + name).c_str()); }

    void drop(const Identity& who, std::string_view session) {
        std::string name;
        {
            auto query = db_.query("DELETE FROM snapshot WHERE " OWNED " RETURNING file", who.uid, who.tenant, session);
            while (query.step()) name = query.text(0);
        }
        if (!name.empty()) unlink(name);
    }

    /// The file first: on a full disk a row can't be removed before something else is. False: there is none.
    bool drop_oldest() {
        std::string name;
        {
            auto query = db_.query("SELECT file FROM snapshot ORDER BY used LIMIT 1");
            if (query.step()) name = query.text(0);
        }
        if (name.empty()) return false;
        unlink(name);
        return db_.run("DELETE FROM snapshot WHERE file = ?1", name) > 0;
    }

    /// Rows and files that have lost each other; plain ones where there is a key, and the other way round.
    void sweep() {
        std::set<std::string> known;
        db_.run("DELETE FROM snapshot WHERE (length(key) > 0) <> ?1", options_.key != nullptr);
        {
            auto query = db_.query("SELECT file FROM snapshot");
            while (query.step()) known.insert(query.text(0));
        }
        std::error_code error;
        std::vector<fs::path> lost;
        for (const auto& entry : fs::directory_iterator(options_.directory, error)) {
            const std::string name = entry.path().filename();
            if (name.starts_with("kv_") && known.erase(name) == 0) lost.push_back(entry.path());
        }
        for (const fs::path& path : lost) fs::remove(path, error);
        for (const std::string& name : known) db_.run("DELETE FROM snapshot WHERE file = ?1", name);
        db_.run("DELETE FROM written WHERE day < ?1", today());
    }

    KvSnapshotOptions options_;
    std::mutex mutex_;
    sqlite::Database db_;
    double bytes_per_s_ = first_guess_bytes_per_s;
    std::int64_t written_ = 0, loaded_ = 0, refused_ = 0;
};

#undef OWNED

}  // namespace

std::unique_ptr<KvSnapshotStore> KvSnapshotStore::open(const KvSnapshotOptions& options) {
    std::error_code error;
    fs::create_directories(options.directory, error);
    ::chmod(options.directory.c_str(), 0700);
    try {
        return std::make_unique<Store>(options);
    } catch (const StorageError&) {
        // It is a cache: what is broken in it is thrown away, once.
        for (const auto& entry : fs::directory_iterator(options.directory, error)) fs::remove(entry.path(), error);
    }
    return std::make_unique<Store>(options);
}

}  // namespace glmd
