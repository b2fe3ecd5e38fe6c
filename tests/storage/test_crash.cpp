// What is acknowledged survives: power cuts, failing operations, death at any change, broken files. GLMD_POWER_CUTS is the number of
// power cuts (script/test --full: 4,000).
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <sstream>

#include "storage/sealing.h"
#include "tests/scratch.h"
#include "tests/storage/faulty_disk.h"
#include "tests/storage/raw_database.h"

using namespace glmd;
namespace fs = std::filesystem;

namespace {

const Identity alice{1000, ""}, bob{1001, "kiosk"};

/// In memory where that is possible: these tests look at orders, not at a disk.
struct Folder {
    std::string path = (fs::is_directory("/dev/shm") ? "/dev/shm" : fs::temp_directory_path().string()) + "/glmd-crash-XXXXXX";
    Folder() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
    ~Folder() { fs::remove_all(path); }
    std::string database() const { return path + "/sessions.db"; }
    void clear() const {
        for (const auto& entry : fs::directory_iterator(path)) fs::remove_all(entry.path());
    }
};

std::shared_ptr<const MasterKey> key_of(char c) {
    SecretKey key;
    std::fill_n(key.data(), SecretKey::size, static_cast<unsigned char>(c));
    return std::make_shared<const MasterKey>(key);
}

std::unique_ptr<SessionStore> open(const Folder& folder, std::shared_ptr<const MasterKey> key = nullptr, std::shared_ptr<const MasterKey> old = nullptr) {
    StoreOptions options{folder.database()};
    options.key = std::move(key);
    options.old_key = std::move(old);
    return SessionStore::open(options);
}

/// All that a user can see, without ids and times. What is open and what a crash cut off look alike.
std::string seen(SessionStore& store) {
    std::ostringstream out;
    for (const Identity& who : {alice, bob}) {
        out << who.uid << '\n';
        for (const Conversation& one : store.conversations(who, 1000, "")) {
            out << " conversation " << one.metadata << '\n';
            const std::vector<Item> items = store.items(who, one.id, -1, "", false).value();
            for (const Item& item : items) {
                out << "  " << item.sequence << ' ' << item.role << ' ' << (item.status == ItemStatus::completed) << ' ' << item.content << '\n';
                if (item.response_id.empty()) continue;
                const Response response = store.response(who, item.response_id).value();
                out << "   " << response.instructions << response.metadata << (response.status == ResponseStatus::completed) << '\n';
            }
        }
    }
    return out.str();
}

/// A step can be tried again: after an error nothing of it, or all of it, is there.
using Step = std::function<void(SessionStore&)>;

struct Workload {
    std::string first, second;
    Response response;
    std::vector<Step> steps;

    explicit Workload(std::size_t padding) {
        const std::string pad(padding, 'p');
        const auto add = [&](Step step) { steps.push_back(std::move(step)); };
        const auto ask = [this](SessionStore& store, const Identity& who, const std::string& session, std::string text) {
            Response asked;
            asked.model = "glm";
            asked.conversation_id = session;
            asked.instructions = "be brief";
            asked.input = {Item{.role = "user", .content = std::move(text)}};
            response = store.begin_response(who, asked).value();
        };
        add([this](SessionStore& s) { first = s.create_conversation(alice, R"({"n":"1"})").id; });
        add([=, this](SessionStore& s) { ask(s, alice, first, "问题" + pad); });
        add([=, this](SessionStore& s) { response.output.content = "到" + pad; s.checkpoint(alice, response); });
        add([=, this](SessionStore& s) {
            response.output.content = "到这里为止" + pad;
            response.status = ResponseStatus::completed;
            s.finish_response(alice, response);
        });
        add([this](SessionStore& s) { second = s.create_conversation(bob, "{}").id; });
        add([=, this](SessionStore& s) { s.append_items(bob, second, {Item{.role = "user", .content = "one" + pad}, Item{.role = "assistant", .content = "two"}}); });
        add([this](SessionStore& s) { s.set_metadata(alice, first, R"({"n":"2"})"); });
        add([=, this](SessionStore& s) { ask(s, bob, second, "and?" + pad + pad); });
        add([this](SessionStore& s) {
            response.output.content = "three";
            response.status = ResponseStatus::completed;
            s.finish_response(bob, response);
        });
        add([this](SessionStore& s) { s.remove_conversation(alice, first); });
        add([this](SessionStore& s) { first = s.create_conversation(alice, "{}").id; });
        add([=, this](SessionStore& s) { ask(s, alice, first, "again"); });
    }
};

int power_cuts() {
    const char* wanted = std::getenv("GLMD_POWER_CUTS");
    return wanted ? std::atoi(wanted) : 400;
}

/// How many of the images are wrong, and what the first of them showed.
std::pair<int, std::string> cut_power(int images, bool lying) {
    Folder live, image;
    int wrong = 0;
    std::string example;
    constexpr int workloads = 4;
    for (int number = 0; number < workloads; ++number) {
        FaultyDisk disk;
        std::vector<std::pair<int, std::string>> acknowledged;  // position in the log, and what was there
        disk.record(true);
        {
            auto store = open(live, key_of('a'));
            acknowledged.emplace_back(disk.position(), seen(*store));
            for (int round = 0; round < 2 + number; ++round) {
                for (Workload work(std::size_t(number) * 3000); const Step& step : work.steps) {
                    step(*store);
                    acknowledged.emplace_back(disk.position(), seen(*store));
                }
                if (round == 0) {
                    store.reset();
                    store = open(live, key_of('a'));
                }
            }
        }
        disk.record(false);
        std::mt19937 random(unsigned(number) + 1);
        for (int i = 0; i < images / workloads; ++i) {
            const int after = int(random() % unsigned(disk.position() + 1));
            image.clear();
            disk.power_cut(after, random, lying, live.path, image.path);
            std::size_t last = 0;
            while (last + 1 < acknowledged.size() && acknowledged[last + 1].first <= after) ++last;
            std::string found;
            try {
                auto store = open(image, key_of('a'));
                found = store->condition().damaged_files.empty() ? seen(*store) : "salvaged";
            } catch (const std::exception& e) {
                found = e.what();
            }
            const bool started = acknowledged[0].first <= after;  // before that there is nothing to lose
            const bool good = found == acknowledged[last].second || (last + 1 < acknowledged.size() && found == acknowledged[last + 1].second);
            if (good || (!started && found == acknowledged[0].second)) continue;
            if (wrong++ == 0) example = "workload " + std::to_string(number) + ", change " + std::to_string(after) + ":\n" + found + "\nwanted:\n" + acknowledged[last].second;
        }
        live.clear();
    }
    return {wrong, example};
}

}  // namespace

TEST_CASE("power cuts lose no acknowledged turn and break no database") {
    const auto [wrong, example] = cut_power(power_cuts(), false);
    INFO(example);
    CHECK(wrong == 0);
    std::cout << power_cuts() << " images after a power cut, " << wrong << " wrong\n";
}

TEST_CASE("power cuts: a disk that only says that it has written is caught") {
    CHECK(cut_power(40, true).first > 10);
}

TEST_CASE("each kind of error at each operation: what was said to be stored is, and the next attempt works") {
    Folder folder;
    FaultyDisk disk;
    std::vector<std::string> wanted;
    const auto key = key_of('a');
    {
        auto store = open(folder, key);
        wanted.push_back(seen(*store));
        for (Workload work(500); const Step& step : work.steps) {
            step(*store);
            wanted.push_back(seen(*store));
        }
    }
    // The same, without looking in between: these operations get the faults.
    folder.clear();
    disk.heal_and_count();
    {
        auto store = open(folder, key);
        for (Workload work(500); const Step& step : work.steps) step(*store);
    }
    std::map<Fault, int> operations;
    for (const Fault fault : all_faults) operations[fault] = disk.count(fault);
    int runs = 0, errors = 0, unknown = 0;
    for (const Fault fault : all_faults) {
        CHECK(operations[fault] > 0);
        for (int number = 0; number < operations[fault]; ++number) {
            INFO("fault " << int(fault) << " at operation " << number);
            folder.clear();
            const bool stays = number % 3 == 2;
            disk.fail(fault, number, stays ? 8 : 1);
            ++runs;
            std::unique_ptr<SessionStore> store;
            try {
                store = open(folder, key);
            } catch (const StorageError&) {
                disk.heal();
                ++errors;
                store = open(folder, key);
            }
            Workload work(500);
            std::size_t end = work.steps.size();
            for (std::size_t i = 0; i < work.steps.size(); ++i) {
                try {
                    work.steps[i](*store);
                } catch (const StorageError&) {
                    disk.heal();
                    ++errors;
                    const std::string now = seen(*store);
                    if (now == wanted[i + 1] && now != wanted[i]) {
                        // A disk that fails to sync again and again: nobody can know, and nothing was promised.
                        if (fault != Fault::sync || !stays) FAIL("said to have failed, but it is there: a second attempt would repeat it");
                        ++unknown;
                        end = i + 1;  // the client doesn't know its id
                        break;
                    }
                    if (now != wanted[i]) FAIL("neither before nor after step " << i << ":\n" << now);
                    work.steps[i](*store);
                }
            }
            disk.heal();
            if (const std::string now = seen(*store); now != wanted[end]) FAIL("at the end:\n" << now);
            store.reset();
            store = open(folder, key);
            if (const std::string now = seen(*store); now != wanted[end]) FAIL("after a restart:\n" << now);
            CHECK(store->condition().damaged_files.empty());
        }
    }
    CHECK(errors > runs / 2);
    std::cout << runs << " runs with a fault, " << errors << " calls failed, of which " << unknown << " were stored all the same\n";
}

namespace {

int newest_version() {
    int version = 1;
    while (fs::exists(GLMD_SCHEMAS "/schema_" + std::to_string(version + 1) + ".sql")) ++version;
    return version;
}

/// A database as the program of that version left it, with plain texts.
void make_version(const Folder& folder, int version) {
    for (int n = 1; n <= version; ++n)
        raw::run(folder.database(), raw::bytes(n == 1 ? GLMD_SCHEMAS "/schema.sql" : GLMD_SCHEMAS "/schema_" + std::to_string(n) + ".sql"));
    raw::run(folder.database(), "PRAGMA journal_mode = WAL; PRAGMA application_id = " + std::to_string(0x474c4d64) + "; PRAGMA user_version = " + std::to_string(version));
    raw::run(folder.database(), R"(
        INSERT INTO conversation (uid, tenant, id, created_at, updated_at, touched, next_sequence, metadata)
            VALUES (1000, '', 'conv_a', 1, 1, 1, 3, x'017b7d'), (1001, 'kiosk', 'conv_b', 1, 1, 1, 2, x'017b7d');
        INSERT INTO response (uid, tenant, id, conversation_id, model, instructions, metadata, status, created_at)
            VALUES (1000, '', 'resp_a', 'conv_a', 'glm', CAST(x'01' || 'CANARY-instructions' AS BLOB), x'017b7d', 1, 1);
        INSERT INTO item (uid, tenant, id, conversation_id, response_id, output, sequence, role, status, created_at, content) VALUES
            (1000, '', 'msg_a', 'conv_a', 'resp_a', 0, 1, 'user', 1, 1, CAST(x'01' || 'CANARY-question' AS BLOB)),
            (1000, '', 'msg_b', 'conv_a', 'resp_a', 1, 2, 'assistant', 1, 1, CAST(x'01' || 'CANARY-answer' AS BLOB)),
            (1001, 'kiosk', 'msg_c', 'conv_b', NULL, 0, 1, 'user', 1, 1, CAST(x'01' || 'CANARY-his' AS BLOB)))");
}

bool anywhere(const Folder& folder, const std::string& text) {
    for (const auto& file : fs::directory_iterator(folder.path))
        if (raw::bytes(file.path()).find(text) != std::string::npos) return true;
    return false;
}

/// Runs `work` on copies of the folder in a child that dies in place of its first change, then of its second, and so on until it gets
/// through; after each death `check` looks at what is left. Returns how many deaths there were.
int die_everywhere(const Folder& start, const std::function<void(const Folder&)>& work, const std::function<void(const Folder&)>& check) {
    for (int number = 0;; ++number) {
        Folder copy;
        fs::copy(start.path, copy.path, fs::copy_options::recursive);
        const pid_t child = ::fork();
        if (child == 0) {
            FaultyDisk disk;
            disk.die_at(number);
            try {
                work(copy);
            } catch (const std::exception& e) {
                std::cerr << e.what() << '\n';
                ::_exit(1);
            }
            ::_exit(0);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        REQUIRE(WIFEXITED(status));
        INFO("death at change " << number);
        REQUIRE((WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 0));
        check(copy);
        if (WEXITSTATUS(status) == 0) return number;
    }
}

}  // namespace

TEST_CASE("migrations: death at any change, from every version") {
    for (int version = 1; version < newest_version(); ++version) {
        Folder start, clean;
        make_version(start, version);
        fs::copy(start.path, clean.path, fs::copy_options::recursive);
        const std::string wanted = seen(*open(clean));
        REQUIRE_THAT(wanted, Catch::Contains("CANARY-instructions") && Catch::Contains("CANARY-answer") && Catch::Contains("CANARY-his"));
        const int deaths = die_everywhere(start, [](const Folder& f) { open(f); }, [&](const Folder& f) {
            auto store = open(f);
            CHECK(seen(*store) == wanted);
            store.reset();
            CHECK(raw::ask(f.database(), "PRAGMA user_version") == std::to_string(newest_version()));
            CHECK(raw::ask(f.database(), "PRAGMA foreign_key_check; PRAGMA integrity_check") == "ok");
        });
        CHECK(deaths > 20);
        std::cout << "from version " << version << ": " << deaths << " deaths\n";
    }
}

TEST_CASE("migrations: death at any change while plain texts are sealed, and while the key changes") {
    Folder start, clean;
    make_version(start, newest_version() - 1);
    fs::copy(start.path, clean.path, fs::copy_options::recursive);
    const std::string wanted = seen(*open(clean));
    const auto key = key_of('a'), next = key_of('b');
    int deaths = die_everywhere(start, [&](const Folder& f) { open(f, key); }, [&](const Folder& f) {
        CHECK(seen(*open(f, key)) == wanted);
        CHECK_FALSE(anywhere(f, "CANARY"));
    });
    CHECK(deaths > 40);
    std::cout << "sealing: " << deaths << " deaths\n";

    open(start, key);
    deaths = die_everywhere(start, [&](const Folder& f) { open(f, next, key); }, [&](const Folder& f) {
        CHECK(seen(*open(f, next, key)) == wanted);
        CHECK(seen(*open(f, next)) == wanted);
        CHECK_THROWS_AS(open(f, key), StoreRefused);
    });
    CHECK(deaths > 5);
    std::cout << "change of the key: " << deaths << " deaths\n";
}

TEST_CASE("migrations: a copy for the older program is kept, and follows removals") {
    Folder folder;
    make_version(folder, newest_version() - 1);
    const std::string copy = folder.database() + ".v" + std::to_string(newest_version() - 1);
    std::ofstream(folder.database() + ".v0") << "an older copy";
    SECTION("plain") {
        auto store = open(folder);
        CHECK_THAT(store->condition().notices.at(0), Catch::Contains(copy));
        CHECK_FALSE(fs::exists(folder.database() + ".v0"));
        CHECK((fs::status(copy).permissions() & fs::perms(0777)) == fs::perms(0600));
        CHECK(raw::ask(copy, "PRAGMA user_version") == std::to_string(newest_version() - 1));
        CHECK(raw::ask(copy, "SELECT count(*) FROM item") == "3");
        CHECK(store->remove_item(alice, "conv_a", "msg_b"));
        CHECK_FALSE(anywhere(folder, "CANARY-answer"));
        CHECK(anywhere(folder, "CANARY-question"));
        CHECK(store->remove_conversation(alice, "conv_a"));
        CHECK_FALSE(anywhere(folder, "CANARY-question"));
        CHECK(raw::ask(copy, "SELECT count(*) FROM item") == "1");
        CHECK(anywhere(folder, "CANARY-his"));
    }
    SECTION("plain texts that are about to be sealed get none") {
        auto store = open(folder, key_of('a'));
        CHECK_FALSE(fs::exists(copy));
        CHECK_FALSE(fs::exists(folder.database() + ".v0"));
    }
    SECTION("it becomes the database again") {
        const std::string now = seen(*open(folder));
        fs::remove(folder.database());
        fs::rename(copy, folder.database());
        CHECK(seen(*open(folder)) == now);
    }
}

TEST_CASE("damage: what can be read is salvaged, the damaged file is kept") {
    const auto key = GENERATE(std::shared_ptr<const MasterKey>(), key_of('a'));
    constexpr int sessions = 40, items = 20;
    Folder start;
    {
        auto store = open(start, key);
        for (int n = 0; n < sessions; ++n) {
            const std::string id = store->create_conversation(n % 2 ? alice : bob, R"({"n":")" + std::to_string(n) + "\"}").id;
            for (int i = 0; i < items; ++i)
                store->append_items(n % 2 ? alice : bob, id, {Item{.role = "user", .content = std::to_string(n) + " " + std::to_string(i) + std::string(300, 'x')}});
        }
    }
    const std::string whole = raw::bytes(start.database());
    const int pages = int(whole.size() / 4096);
    REQUIRE(pages > 60);

    /// Items whose text is the one that was said, of sessions that can be read.
    const auto left = [&](SessionStore& store) {
        int count = 0;
        for (const Identity& who : {alice, bob})
            for (const Conversation& one : store.conversations(who, 1000, "")) {
                const auto found = store.items(who, one.id, -1, "", false).value();
                for (const Item& item : found) {
                    CHECK(item.content.find(" " + std::to_string(item.sequence - 1) + "xxx") != std::string::npos);
                    ++count;
                }
            }
        return count;
    };
    const auto damaged = [&](const std::string& bytes) {
        auto folder = std::make_unique<Folder>();
        std::ofstream(folder->database(), std::ios::binary) << bytes;
        return folder;
    };
    const auto zeroed = [&](std::initializer_list<int> which) {
        std::string bytes = whole;
        for (const int page : which) bytes.replace(std::size_t(page) * 4096, 4096, 4096, '\0');
        return bytes;
    };
    const auto page_of = [&](const char* name, bool leaf) {  // a page of that table or index
        return std::stoi(raw::ask(start.database(), std::string("SELECT pageno - 1 FROM dbstat WHERE name = '") + name + "' AND pagetype = '" +
                                                        (leaf ? "leaf" : "internal") + "' ORDER BY pageno LIMIT 1 OFFSET " + (leaf ? "3" : "0")));
    };
    const bool has_dbstat = !raw::ask(start.database(), "SELECT count(*) FROM dbstat").empty();

    if (has_dbstat) {
        // One leaf of the items: all but its ten rows or so.
        const auto folder = damaged(zeroed({page_of("item", true)}));
        std::string now;
        {
            auto store = open(*folder, key);
            const auto condition = store->condition();
            REQUIRE(condition.damaged_files.size() == 1);
            CHECK_THAT(condition.notices.at(0), Catch::Contains("damaged") && Catch::Contains(condition.damaged_files[0]));
            CHECK(raw::bytes(condition.damaged_files[0]) == zeroed({page_of("item", true)}));
            CHECK(left(*store) >= sessions * items - 30);
            CHECK(store->counts().conversations == sessions);
            store.reset();
            CHECK(raw::ask(folder->database(), "PRAGMA foreign_key_check; PRAGMA integrity_check") == "ok");
            store = open(*folder, key);
            Response next;
            next.conversation_id = store->conversations(alice, 1, "").at(0).id;
            next.input = {Item{.role = "user", .content = "and on"}};
            CHECK(store->begin_response(alice, next));
            now = seen(*store);
        }
        auto again = open(*folder, key);
        CHECK(seen(*again) == now);
        CHECK(again->condition().notices.empty());
        CHECK(again->condition().damaged_files.size() == 1);
    }
    if (has_dbstat) {
        // The root of an index costs nothing.
        const auto folder = damaged(zeroed({page_of("item_conversation", false)}));
        auto store = open(*folder, key);
        CHECK(store->condition().damaged_files.size() == 1);
        CHECK(left(*store) == sessions * items);
        // And a second misfortune keeps both files.
        store.reset();
        std::ofstream(folder->database(), std::ios::binary) << zeroed({page_of("item_conversation", false)});
        CHECK(open(*folder, key)->condition().damaged_files.size() == 2);
    }
    if (has_dbstat) {
        // Conversations without their rows come back without their titles.
        const auto folder = damaged(zeroed({std::stoi(raw::ask(start.database(), "SELECT min(pageno) - 1 FROM dbstat WHERE name = 'conversation'"))}));
        auto store = open(*folder, key);
        CHECK(left(*store) == sessions * items);
        CHECK(store->counts().conversations == sessions);
        CHECK(store->conversations(alice, 1, "").at(0).metadata == "{}");
        store->append_items(alice, store->conversations(alice, 1, "").at(0).id, {Item{.role = "user", .content = "20xxx on"}});
    }
    {
        const auto folder = damaged(whole.substr(0, whole.size() / 2 / 4096 * 4096));
        auto store = open(*folder, key);
        CHECK(store->condition().damaged_files.size() == 1);
        CHECK_NOTHROW(seen(*store));
        CHECK(store->create_conversation(alice, "{}").id != "");
    }
    std::mt19937 random(7);
    int read = 0, opened = 0;
    constexpr int noisy = 20;
    for (int n = 0; n < noisy; ++n) {
        std::string bytes = whole;
        for (int holes = 1 + int(random() % 3); holes > 0; --holes) {
            const std::size_t at = 4096 * (1 + random() % std::size_t(pages - 1));
            for (std::size_t i = 0; i < 4096; ++i) bytes[at + i] = char(random());
        }
        const auto folder = damaged(bytes);
        std::unique_ptr<SessionStore> store;
        try {
            store = open(*folder, key);
        } catch (const StoreRefused&) {
            continue;  // the page that says whose the database is
        }
        ++opened;
        for (const Identity& who : {alice, bob})
            try {
                for (const Conversation& one : store->conversations(who, 1000, "")) read += int(one.items);
            } catch (const StorageError&) {  // texts whose keys are gone
            }
        CHECK(store->create_conversation(alice, "{}").id != "");
    }
    CHECK(opened > noisy * 3 / 4);
    std::cout << noisy << " databases with 1 to 3 pages of noise: " << opened << " opened, " << read << " of " << noisy * sessions * items << " items left\n";
}

TEST_CASE("damage: what lies behind a broken page is found, however far its numbers are") {
    constexpr int items = 800;
    Folder start;
    std::string session;
    {
        auto store = open(start);
        session = store->create_conversation(alice, "{}").id;
        for (int i = 0; i < items; ++i) store->append_items(alice, session, {Item{.role = "user", .content = "<" + std::to_string(i) + ">" + std::string(300, 'x')}});
    }
    const auto page_with = [&](const std::string& bytes, const std::string& text) {  // where the leaf with that text begins
        const std::size_t at = bytes.find(text);
        REQUIRE(at != std::string::npos);
        return at / 4096 * 4096;
    };
    const auto break_page = [&](const std::string& text) {
        std::string bytes = raw::bytes(start.database());
        bytes.replace(page_with(bytes, text), 4096, 4096, '\xff');
        std::ofstream(start.database(), std::ios::binary) << bytes;
    };
    const auto salvaged = [&](const std::string& misses) {
        auto store = open(start);
        CHECK_THAT(store->condition().notices.at(0), Catch::Contains(", " + misses + " rows or pages couldn't be read"));
        return store;
    };
    SECTION("a gap of a million numbers") {
        raw::run(start.database(), "UPDATE item SET rowid = rowid + 1000000 WHERE rowid > 405");
        break_page("<400>");
        CHECK(salvaged("1")->items(alice, session, -1, "", false)->size() >= items - 20);
    }
    SECTION("several") {
        for (const char* text : {"<100>", "<300>", "<320>", "<790>"}) break_page(text);
        CHECK(salvaged("4")->items(alice, session, -1, "", false)->size() >= items - 60);
    }
    SECTION("pages in each other's place") {  // whoever followed them would go in circles
        std::string bytes = raw::bytes(start.database());
        const std::size_t one = page_with(bytes, "<100>"), other = page_with(bytes, "<300>");
        std::swap_ranges(bytes.begin() + std::ptrdiff_t(one), bytes.begin() + std::ptrdiff_t(one) + 4096, bytes.begin() + std::ptrdiff_t(other));
        std::ofstream(start.database(), std::ios::binary) << bytes;
        CHECK(open(start)->items(alice, session, -1, "", false)->size() >= items - 30);
    }
    SECTION("the page that all others hang on") {
        const std::string root = raw::ask(start.database(), "SELECT rootpage FROM sqlite_schema WHERE name = 'item'");
        std::string bytes = raw::bytes(start.database());
        bytes.replace((std::stoul(root) - 1) * 4096, 4096, 4096, '\xff');
        std::ofstream(start.database(), std::ios::binary) << bytes;
        CHECK(salvaged("1")->items(alice, session, -1, "", false)->empty());
    }
    SECTION("what was still in the log") {
        Folder live;
        fs::copy(start.path, live.path, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
        auto store = open(live);
        for (int i = items; i < items + 40; ++i) store->append_items(alice, session, {Item{.role = "user", .content = "<" + std::to_string(i) + ">" + std::string(300, 'x')}});
        fs::copy(live.path, start.path, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
        REQUIRE(raw::bytes(start.database()).find("<835>") == std::string::npos);
        REQUIRE(raw::bytes(start.database() + "-wal").find("<835>") != std::string::npos);
        break_page("<400>");
        const auto found = salvaged("1")->items(alice, session, -1, "", false).value();
        CHECK(found.size() >= items + 40 - 20);
        CHECK_THAT(found.back().content, Catch::StartsWith("<839>"));
    }
}

TEST_CASE("damage: death at any change of the salvage") {
    Folder start;
    const auto key = key_of('a');
    {
        auto store = open(start, key);
        for (int n = 0; n < 30; ++n) store->append_items(alice, store->create_conversation(alice, "{}").id, {Item{.role = "user", .content = std::string(500, 'x')}});
    }
    std::string bytes = raw::bytes(start.database());
    const std::size_t page = std::stoul(raw::ask(start.database(), "SELECT pageno - 1 FROM dbstat WHERE name = 'item_conversation' ORDER BY pageno LIMIT 1"));
    bytes.replace(page * 4096, 4096, 4096, '\0');
    std::ofstream(start.database(), std::ios::binary) << bytes;
    Folder clean;
    fs::copy(start.path, clean.path, fs::copy_options::recursive);
    const std::string wanted = seen(*open(clean, key));
    const int deaths = die_everywhere(start, [&](const Folder& f) { open(f, key); }, [&](const Folder& f) {
        auto store = open(f, key);
        CHECK(seen(*store) == wanted);
        CHECK(store->condition().damaged_files.size() == 1);
    });
    CHECK(deaths > 20);
    std::cout << "salvage: " << deaths << " deaths\n";
}

TEST_CASE("a clock that jumps by 50 years changes no order and loses nothing") {
    Folder folder;
    std::int64_t now = 1'800'000'000;
    constexpr std::int64_t fifty_years = 50LL * 365 * 86400;
    StoreOptions options{folder.database()};
    options.clock = [&] { return now; };
    std::vector<std::string> ids;
    std::string session;
    const auto jumps = {now, now - fifty_years, now + fifty_years, std::int64_t(0), now, std::int64_t(-1)};
    for (const std::int64_t jump : jumps) {
        now = jump;
        auto store = SessionStore::open(options);
        if (session.empty()) session = store->create_conversation(bob, "{}").id;
        ids.push_back(store->create_conversation(alice, "{}").id);
        Response asked;
        asked.conversation_id = session;
        asked.input = {Item{.role = "user", .content = std::to_string(ids.size())}};
        Response response = store->begin_response(bob, asked).value();
        response.output.content = "answer " + std::to_string(ids.size());
        response.status = ResponseStatus::completed;
        store->finish_response(bob, response);
    }
    auto store = SessionStore::open(options);
    const auto items = store->items(bob, session, -1, "", false).value();
    REQUIRE(items.size() == 2 * jumps.size());
    for (std::size_t i = 0; i < items.size(); ++i) CHECK(items[i].content == (i % 2 ? "answer " : "") + std::to_string(i / 2 + 1));
    const auto newest_first = store->conversations(alice, 100, "");
    REQUIRE(newest_first.size() == ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) CHECK(newest_first[i].id == ids[ids.size() - 1 - i]);
    CHECK(store->conversations(alice, 2, newest_first[2].id).at(0).id == newest_first[3].id);
}

namespace {

/// A small file system of its own: ext4 in a file where that can be mounted, else tmpfs. Empty kind: neither.
struct SmallDisk {
    Folder folder;
    std::string kind, mounted = folder.path + "/disk";
    SmallDisk() {
        if (::geteuid() != 0) return;
        fs::create_directory(mounted);
        const std::string image = folder.path + "/image";
        const auto run = [](const std::string& command) { return ::system(("( " + command + " ) >/dev/null 2>&1").c_str()) == 0; };
        if (run("truncate -s 2M " + image + " && mkfs.ext4 -q -m 0 -N 64 " + image + " && mount -o loop " + image + " " + mounted)) kind = "ext4";
        else if (run("mount -t tmpfs -o size=1M none " + mounted)) kind = "tmpfs";
    }
    ~SmallDisk() {
        if (!kind.empty() && ::system(("umount " + mounted).c_str()) != 0) std::cerr << "umount failed\n";
    }
    void remount(const char* how) const { REQUIRE(::system(("mount -o remount," + std::string(how) + " " + mounted).c_str()) == 0); }
};

}  // namespace

TEST_CASE("a full or read-only disk: errors, reading goes on, and all works again afterwards") {
    SmallDisk disk;
    if (disk.kind.empty()) {
        std::cout << "skipped: can't mount a small file system\n";
        return;
    }
    std::cout << "on a small " << disk.kind << '\n';
    StoreOptions options{disk.mounted + "/sessions.db"};
    options.key = key_of('a');
    auto store = SessionStore::open(options);
    const std::string session = store->create_conversation(alice, "{}").id;
    int stored = 0;
    Response asked;
    asked.conversation_id = session;
    asked.input = {Item{.role = "user", .content = std::string(20000, 'x')}};
    Response open_answer = store->begin_response(alice, asked).value();
    const std::string ballast = disk.mounted + "/ballast";
    std::ofstream(ballast, std::ios::binary) << std::string(300000, 'b');
    try {
        for (; stored < 10000; ++stored) store->append_items(alice, session, {Item{.role = "user", .content = std::string(20000, 'y')}});
    } catch (const StorageFull& e) {
        CHECK_THAT(e.what(), Catch::Contains("the disk is full"));
    }
    CHECK(stored > 3);
    CHECK(stored < 10000);
    open_answer.output.content = std::string(50000, 'z');
    open_answer.status = ResponseStatus::completed;
    CHECK_THROWS_AS(store->finish_response(alice, open_answer), StorageFull);
    CHECK(store->items(alice, session, -1, "", false)->size() == std::size_t(stored) + 2);

    SECTION("space comes back") {
        fs::remove(ballast);
        CHECK(store->begin_response(alice, asked));
        CHECK(store->response(alice, open_answer.id)->output.content == open_answer.output.content);  // tried again by itself
    }
    SECTION("space comes back with another start") {
        store.reset();
        try {
            store = SessionStore::open(options);
        } catch (const StorageFull&) {
        }
        fs::remove(ballast);
        store.reset();
        store = SessionStore::open(options);
        CHECK(store->begin_response(alice, asked));
    }
    SECTION("a start on a read-only disk is refused") {
        if (disk.kind != "ext4") return;
        fs::remove(ballast);
        store.reset();
        disk.remount("ro");
        CHECK_THROWS_WITH(SessionStore::open(options), Catch::Contains("read-only") || Catch::Contains("can't be opened"));
        disk.remount("rw");
        store = SessionStore::open(options);
        CHECK(store->items(alice, session, -1, "", false)->size() == std::size_t(stored) + 2);
    }
    store.reset();
}
