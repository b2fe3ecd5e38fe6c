// Snapshots of keys and values: what is torn or foreign isn't there, and neither disk space nor writes grow without bound.
#include <catch2/catch.hpp>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "storage/kv_snapshots.h"
#include "tests/scratch.h"

using namespace glmd;
namespace fs = std::filesystem;

namespace {

const Identity alice{1000, ""}, bob{1001, ""}, alice_at_work{1000, "work"};
const std::string model = "model-1 fast f16";

std::vector<std::byte> bytes(std::size_t size, int seed) {
    std::vector<std::byte> out(size);
    for (std::size_t i = 0; i < size; ++i) out[i] = std::byte((i * 31 + std::size_t(seed) * 7) >> 2);
    return out;
}

std::vector<std::int32_t> tokens(int count) {
    std::vector<std::int32_t> out;
    for (int i = 0; i < count; ++i) out.push_back(i * 3);
    return out;
}

struct Fixture {
    Scratch scratch;
    std::int64_t day = 1;
    std::unique_ptr<KvSnapshotStore> store;

    explicit Fixture(std::int64_t most = 1 << 20, std::int64_t daily = 1 << 20) { open(most, daily); }
    void open(std::int64_t most = 1 << 20, std::int64_t daily = 1 << 20) {
        store.reset();
        store = KvSnapshotStore::open({folder(), most, daily, [this] { return day; }});
    }
    std::string folder() const { return (scratch.path / "kv").string(); }
    std::vector<fs::path> files() const {
        std::vector<fs::path> out;
        for (const auto& entry : fs::directory_iterator(folder()))
            if (entry.path().filename().string().starts_with("kv_")) out.push_back(entry.path());
        return out;
    }
    bool put(const Identity& who, const std::string& session, std::size_t size = 5000) {
        return store->put(who, session, model, tokens(40), bytes(size, 1));
    }
    bool has(const Identity& who, const std::string& session) { return store->get(who, session, model) != nullptr; }
};

}  // namespace

TEST_CASE("kv snapshots: what is kept comes back, to its owner, session and model only") {
    Fixture f;
    REQUIRE(f.put(alice, "conv_1"));
    for (int opened = 0; opened < 2; ++opened) {
        const auto found = f.store->get(alice, "conv_1", model);
        REQUIRE(found);
        CHECK(found->tokens == tokens(40));
        const auto expected = bytes(5000, 1);
        CHECK(std::equal(found->data.begin(), found->data.end(), expected.begin(), expected.end()));
        CHECK_FALSE(f.has(bob, "conv_1"));
        CHECK_FALSE(f.has(alice_at_work, "conv_1"));
        CHECK_FALSE(f.has(alice, "conv_2"));
        CHECK_FALSE(f.store->get(alice, "conv_1", "model-2 fast f16"));
        f.open();
    }
    struct stat status{};
    REQUIRE(f.files().size() == 1);
    REQUIRE(::stat(f.files()[0].c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0600);
    REQUIRE(::stat(f.folder().c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0700);

    REQUIRE(f.put(alice, "conv_1", 700));  // the newer one replaces it
    CHECK(f.store->get(alice, "conv_1", model)->data.size() == 700);
    CHECK(f.files().size() == 1);
    f.store->remove(bob, "conv_1");
    CHECK(f.has(alice, "conv_1"));
    f.store->remove(alice, "conv_1");
    CHECK_FALSE(f.has(alice, "conv_1"));
    CHECK(f.files().empty());
}

TEST_CASE("kv snapshots: a changed byte anywhere, a shorter and a longer file are refused") {
    Fixture f;
    REQUIRE(f.put(alice, "s", 300));
    const auto size = static_cast<std::int64_t>(fs::file_size(f.files()[0]));
    f.store->remove(alice, "s");
    for (std::int64_t at = 0; at < size + 2; ++at) {
        REQUIRE(f.put(alice, "s", 300));
        const fs::path path = f.files()[0];
        if (at < size) {
            std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
            file.seekg(at);
            const char old = static_cast<char>(file.get());
            file.seekp(at);
            file.put(static_cast<char>(old ^ 1 << at % 8));
        } else {
            fs::resize_file(path, at == size ? std::uintmax_t(size - 1) : std::uintmax_t(size + 1));
        }
        INFO("byte " << at);
        CHECK_FALSE(f.has(alice, "s"));
        CHECK(f.files().empty());  // it won't get better
    }
    CHECK(f.store->counts().refused == size + 2);
}

TEST_CASE("kv snapshots: files and rows that a crash has parted are swept; a broken index starts anew") {
    Fixture f;
    REQUIRE(f.put(alice, "a"));
    REQUIRE(f.put(alice, "b"));
    for (const char* name : {"kv_orphan", "kv_half.tmp"}) std::ofstream(f.folder() + "/" + name) << "x";
    f.open();
    CHECK(f.files().size() == 2);
    for (const auto& path : f.files()) fs::remove(path);
    f.open();
    CHECK(f.store->counts().files == 0);

    REQUIRE(f.put(alice, "a"));
    f.store.reset();
    for (const char* suffix : {"-wal", "-shm"}) fs::remove(f.folder() + "/index.db" + suffix);
    std::ofstream(f.folder() + "/index.db") << "this is no database, however long one reads in it";
    f.open();
    CHECK(f.store->counts().files == 0);
    CHECK(f.put(alice, "a"));
}

TEST_CASE("kv snapshots: the least recently used go when space is short") {
    Fixture f(3 * 6000);
    for (const char* s : {"a", "b", "c"}) REQUIRE(f.put(alice, s, 5000));
    CHECK(f.has(alice, "a"));  // used now
    REQUIRE(f.put(bob, "d", 5000));
    CHECK(f.has(alice, "a"));
    CHECK_FALSE(f.has(alice, "b"));
    CHECK(f.has(alice, "c"));
    CHECK(f.has(bob, "d"));
    CHECK_FALSE(f.put(alice, "huge", 20000));
    CHECK(f.store->counts().bytes <= 3 * 6000);
    CHECK(f.files().size() == 3);
}

TEST_CASE("kv snapshots: no more is written a day than the budget, across restarts") {
    Fixture f(1 << 20, 12000);
    REQUIRE(f.put(alice, "a"));
    REQUIRE(f.put(alice, "a"));
    CHECK_FALSE(f.put(alice, "a"));
    f.open(1 << 20, 12000);
    CHECK_FALSE(f.put(alice, "b"));
    CHECK(f.store->counts().written_today_bytes > 10000);
    f.day = 2;
    CHECK(f.put(alice, "b"));
    CHECK(f.store->counts().written_today_bytes < 6000);
}

TEST_CASE("kv snapshots: only what saves more time than it costs") {
    Fixture f;
    // 1000 tokens in 10 s; 10 MB written and read at the guessed 100 MB/s: 0.2 s.
    Fixture large(std::int64_t(1) << 30, std::int64_t(1) << 30);
    CHECK(large.store->wants(alice, "a", model, 1000, 10'000'000, 100));
    CHECK_FALSE(large.store->wants(alice, "a", model, 1000, 10'000'000, 10000));  // 0.1 s
    CHECK_FALSE(large.store->wants(alice, "a", model, 1000, 10'000'000, 0));      // unknown
    CHECK_FALSE(f.store->wants(alice, "a", model, 1000, 10'000'000, 100));        // larger than all that may be kept
    REQUIRE(f.put(alice, "a"));                                                   // 40 tokens
    CHECK_FALSE(f.store->wants(alice, "a", model, 40, 5000, 1));                  // nothing new
    CHECK(f.store->wants(alice, "a", model, 41, 5000, 1));
    CHECK(f.store->wants(alice, "a", "another model", 40, 5000, 1));

    // 40 tokens are kept, 50 would cost 0.1 s, and so would a snapshot of 5 MB: not at once, but before long, across restarts.
    REQUIRE(large.store->put(alice, "a", model, tokens(40), bytes(5000, 1)));
    CHECK_FALSE(large.store->wants(alice, "a", model, 60, 5'000'000, 500));   // 20 are left out
    CHECK_FALSE(large.store->wants(alice, "a", model, 40, 5'000'000, 500));   // nothing new: nothing to write
    large.open(std::int64_t(1) << 30, std::int64_t(1) << 30);
    CHECK_FALSE(large.store->wants(alice, "a", model, 65, 5'000'000, 500));   // 25, and the 20
    CHECK(large.store->wants(alice, "a", model, 50, 5'000'000, 500));         // 10, and 45
    REQUIRE(large.store->put(alice, "a", model, tokens(50), bytes(5000, 1)));
    CHECK_FALSE(large.store->wants(alice, "a", model, 60, 5'000'000, 500));   // paid
}

TEST_CASE("kv snapshots: a disk that is nearly full is the sessions'") {
    Scratch scratch;
    const std::string folder = (scratch.path / "kv").string();
    std::int64_t others = 0;
    const auto room = [&] {
        std::int64_t left = 20000 - others;
        for (const auto& entry : fs::directory_iterator(folder))
            if (entry.path().filename().string().starts_with("kv_")) left -= std::int64_t(entry.file_size());
        return left;
    };
    const auto store = KvSnapshotStore::open({folder, 1 << 20, 1 << 20, {}, nullptr, room});
    const auto put = [&](const std::string& session) { return store->put(alice, session, model, tokens(40), bytes(5000, 1)); };
    const auto has = [&](const std::string& session) { return store->get(alice, session, model) != nullptr; };
    for (const char* session : {"conv_1", "conv_2", "conv_3", "conv_4"}) CHECK(put(session));
    CHECK_FALSE(has("conv_1"));  // the fourth had no room beside all three
    CHECK(has("conv_4"));
    CHECK(store->counts().files == 3);

    others = 12000;
    store->make_room();
    CHECK(store->counts().files == 1);
    CHECK(has("conv_4"));
    others = 16000;
    CHECK_FALSE(put("conv_5"));  // not even alone
    CHECK(has("conv_4"));
    CHECK_FALSE(store->wants(alice, "conv_5", model, 1000, 5000, 1));
    others = 30000;
    store->make_room();
    CHECK(store->counts().files == 0);
    store->make_room();
}
