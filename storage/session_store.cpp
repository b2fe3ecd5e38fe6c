// Peculiar: every statement names the owner (uid, tenant) and numbers come from the database, not from a clock. One public
// method is one transaction. A sealed text is bound to its place (internal/sealing.h), so that a row that was copied elsewhere in
// the file doesn't open. The numbers of the enums are stored: never reorder them.
#include "storage/session_store.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <iterator>
#include <utility>

#include "storage/internal/copies.h"
#include "storage/internal/retention.h"
#include "storage/internal/salvage.h"
#include "storage/internal/schema.h"
#include "storage/internal/sealing.h"
#include "storage/internal/sqlite.h"
#include "storage/internal/summary_rows.h"

namespace glmd {
namespace {

using sqlite::Blob;
using sqlite::Database;
using sqlite::OptionalText;
using sqlite::Statement;
using sqlite::Transaction;

constexpr std::int64_t application_id = 0x474c4d64;  // "GLMd"
constexpr const char* const* migrations[] = {&schema_v1, &schema_v2, &schema_v3, &schema_v4, &schema_v5};  // [n]: from version n to n + 1
constexpr std::int64_t newest_version = std::size(migrations), first_sealed_version = 3;
constexpr std::int64_t checked_bytes = 256 << 20;  // larger files aren't read in full at start
constexpr std::size_t most_unfinished = 256;
constexpr int preview_characters = 80;

// Every column of texts. An answer that isn't finished has version 0: it can't be put back in the finished one's place.
constexpr SealedColumn sealed_columns[] = {
    {"conversation", "metadata", "id", "0", "'metadata'",
     "coalesce((SELECT revision FROM session_key k WHERE k.uid = conversation.uid AND k.tenant = conversation.tenant AND k.session = id), 1)"},
    {"response", "instructions", "coalesce(conversation_id, id)", "0", "'instructions|' || id", "1"},
    {"response", "metadata", "coalesce(conversation_id, id)", "0", "'metadata|' || id", "1"},
    {"summary_step", "answer", "'summaries'", "0", "hex(key)", "1"},
    {"summary", "body", "id", "0", "'body'", "1 - open"},
    {"item", "content", "coalesce(conversation_id, response_id)", "sequence", "role", "status <> 0"},
};

/// One line of the first characters, never half a character.
std::string preview_of(std::string_view content) {
    std::string preview;
    int characters = 0;
    for (const char c : content) {
        if ((static_cast<unsigned char>(c) & 0xc0) != 0x80 && ++characters > preview_characters) break;
        preview += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return preview;
}

/// SQLite would create the file with the umask's mode. Never opens an existing one: closing it drops SQLite's locks.
void make_private(const std::string& path) {
    const int file = ::open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (file >= 0) {
        ::close(file);
        return;
    }
    struct stat status{};
    if (errno == EEXIST && ::stat(path.c_str(), &status) == 0 && (status.st_mode & 077) != 0) {
        for (const char* suffix : {"", "-wal", "-shm"}) (void)!::chmod((path + suffix).c_str(), 0600);
    }
    // Whatever else is wrong, SQLite says.
}

/// One daemon a database: a second one would take the first one's open answers for interrupted ones. Goes with the process.
class OwnerLock {
public:
    explicit OwnerLock(const std::string& path) {
        if (path == ":memory:") return;
        file_ = ::open((path + ".lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
        if (file_ >= 0 && ::flock(file_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
            ::close(file_);
            throw StorageError("another process uses the sessions in " + path + ": stop it, or give this one a state directory of its own");
        }
        // A folder that can't be written is SQLite's to complain about.
    }
    ~OwnerLock() {
        if (file_ >= 0) ::close(file_);
    }
    OwnerLock(const OwnerLock&) = delete;
    OwnerLock& operator=(const OwnerLock&) = delete;

private:
    int file_ = -1;
};

#define ITEM_COLUMNS "id, role, content, status, sequence, created_at, response_id, conversation_id"
#define OWNED "uid = ?1 AND tenant = ?2"

class SqliteStore final : public SessionStore {
public:
    explicit SqliteStore(const StoreOptions& options)
        : options_(options), lock_(options.path), db_(options.path, options.alone ? Database::Use::alone : Database::Use::shared), copies_(options.path),
          sealing_(db_, options.key) {
        prepare();
        migrate();
        if (sealing_.prepare(sealed_columns, options.old_key.get())) copies_.remove();  // they are plain, or of another key
        settle();
    }

    /// For open(): the next attempt finds it salvaged.
    static std::string salvage(const std::string& path) {
        const OwnerLock lock(path);
        const Salvage done = glmd::salvage(path, migrate_to);
        return "the session database " + path + " was damaged: " + std::to_string(done.rows) + " rows were salvaged into a new one, " +
               std::to_string(done.unreadable) + " rows or pages couldn't be read; the damaged file is kept as " + done.kept;
    }
    void note(std::string notice) { notices_.push_back(std::move(notice)); }

    Condition condition() override {
        return {sealing_.sealed(), sealing_.sealed() ? sealing_.key()->id() : "", notices_, damaged_files(options_.path)};
    }

    void backup(const std::string& file) override { copy_database(db_, file); }

    Conversation create_conversation(const Identity& who, std::string metadata) override {
        Transaction transaction(db_);
        const auto made = insert_conversation(who, std::move(metadata));
        check_quota(who, true);
        commit(transaction, [&] { return exists(who, made.id); });
        return made;
    }

    std::optional<Conversation> conversation(const Identity& who, std::string_view id) override {
        auto query = db_.query("SELECT id, created_at, updated_at, metadata, touched FROM conversation WHERE " OWNED " AND id = ?3",
                               who.uid, who.tenant, id);
        if (!query.step()) return std::nullopt;
        return read_conversation(who, query);
    }

    std::vector<Conversation> conversations(const Identity& who, int limit, std::string_view after,
                                            const std::function<bool(std::string_view)>& wanted) override {
        std::vector<Conversation> page;
        auto query = db_.query(
            "SELECT id, created_at, updated_at, metadata, touched FROM conversation WHERE " OWNED " AND (?3 IS NULL OR touched < "
            "(SELECT touched FROM conversation WHERE " OWNED " AND id = ?3)) ORDER BY touched DESC LIMIT ?4",
            who.uid, who.tenant, OptionalText{after}, wanted ? -1 : limit);
        while (static_cast<int>(page.size()) < limit && query.step())
            if (!wanted || wanted(open_metadata(who, query))) page.push_back(read_conversation(who, query));
        return page;
    }

    bool set_metadata(const Identity& who, std::string_view conversation, std::string metadata) override {
        Transaction transaction(db_);
        if (!touch(who, conversation, 0)) return false;
        db_.run("UPDATE conversation SET metadata = ?4 WHERE " OWNED " AND id = ?3", who.uid, who.tenant, conversation,
                Blob{sealing_.seal(metadata, {who, conversation, 0, "metadata", sealing_.next_revision(who, conversation)})});
        check_quota(who, false);
        transaction.commit();
        return true;
    }

    bool remove_conversation(const Identity& who, std::string_view id) override {
        Transaction transaction(db_);
        const auto changed = db_.run("DELETE FROM conversation WHERE " OWNED " AND id = ?3", who.uid, who.tenant, id);
        commit(transaction, [&] { return !exists(who, id); });
        return removed("conversation", who, id, changed);
    }

    std::optional<Conversation> branch(const Identity& who, std::string_view conversation, std::string_view until,
                                       std::string metadata) override {
        if (!until.empty() && !item(who, conversation, until)) return std::nullopt;
        auto found = items(who, conversation, -1, "", false);
        if (!found) return std::nullopt;
        while (!until.empty() && found->back().id != until) found->pop_back();
        Transaction transaction(db_);
        const auto made = insert_conversation(who, std::move(metadata));
        auto sequence = *touch(who, made.id, static_cast<std::int64_t>(found->size()));
        for (auto& item : *found) {
            item.id.clear();
            item.response_id.clear();
            if (item.status == ItemStatus::in_progress) item.status = ItemStatus::incomplete;
            insert(who, made.id, item, sequence++, false);
        }
        check_quota(who, true);
        transaction.commit();
        return this->conversation(who, made.id);
    }

    std::optional<std::vector<Item>> append_items(const Identity& who, std::string_view conversation,
                                                  std::vector<Item> items) override {
        Transaction transaction(db_);
        auto sequence = touch(who, conversation, static_cast<std::int64_t>(items.size()));
        if (!sequence) return std::nullopt;
        for (auto& item : items) {
            item.response_id.clear();
            insert(who, conversation, item, (*sequence)++, false);
        }
        check_quota(who, false);
        commit(transaction, [&] { return items.empty() || item(who, conversation, items[0].id); });
        return items;
    }

    std::optional<std::vector<Item>> items(const Identity& who, std::string_view conversation, int limit,
                                           std::string_view after, bool descending) override {
        if (!exists(who, conversation)) return std::nullopt;
        static constexpr std::string_view oldest_first =
            "SELECT " ITEM_COLUMNS " FROM item WHERE " OWNED " AND conversation_id = ?3 AND (?4 IS NULL OR sequence > "
            "(SELECT sequence FROM item WHERE " OWNED " AND conversation_id = ?3 AND id = ?4)) ORDER BY sequence LIMIT ?5";
        static constexpr std::string_view newest_first =
            "SELECT " ITEM_COLUMNS " FROM item WHERE " OWNED " AND conversation_id = ?3 AND (?4 IS NULL OR sequence < "
            "(SELECT sequence FROM item WHERE " OWNED " AND conversation_id = ?3 AND id = ?4)) ORDER BY sequence DESC LIMIT ?5";
        auto query = db_.query(descending ? newest_first : oldest_first, who.uid, who.tenant, conversation, OptionalText{after},
                               limit);
        return read_items(who, query);
    }

    std::optional<Item> item(const Identity& who, std::string_view conversation, std::string_view item) override {
        auto query = db_.query("SELECT " ITEM_COLUMNS " FROM item WHERE " OWNED " AND conversation_id = ?3 AND id = ?4", who.uid,
                               who.tenant, conversation, item);
        if (!query.step()) return std::nullopt;
        return read_item(who, query);
    }

    bool remove_item(const Identity& who, std::string_view conversation, std::string_view item) override {
        Transaction transaction(db_);
        const auto changed = db_.run("DELETE FROM item WHERE " OWNED " AND conversation_id = ?3 AND id = ?4", who.uid, who.tenant,
                                     conversation, item);
        if (changed) touch(who, conversation, 0);
        transaction.commit();
        return removed("item", who, item, changed);
    }

    std::optional<Response> begin_response(const Identity& who, Response response) override {
        if (unsettled_) settle();
        finish_unfinished();
        if (log_has_removed_) empty_log();
        Transaction transaction(db_);
        const bool in_conversation = !response.conversation_id.empty();
        std::int64_t sequence = 1;
        if (in_conversation) {
            const auto first = touch(who, response.conversation_id, static_cast<std::int64_t>(response.input.size()) + 1);
            if (!first) return std::nullopt;
            sequence = *first;
        }
        if (!response.previous_response_id.empty() && !has_response(who, response.previous_response_id)) return std::nullopt;

        if (response.id.empty()) response.id = new_id("resp_");
        response.created_at = now();
        response.status = ResponseStatus::in_progress;
        response.incomplete_reason.clear();
        response.input_tokens = response.output_tokens = 0;
        db_.run("INSERT INTO response (uid, tenant, id, conversation_id, previous_response_id, model, instructions, metadata, "
                "status, created_at, background) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                who.uid, who.tenant, response.id, OptionalText{response.conversation_id},
                OptionalText{response.previous_response_id}, response.model,
                Blob{sealing_.seal(response.instructions, {who, session_of(response), 0, "instructions|" + response.id})},
                Blob{sealing_.seal(response.metadata, {who, session_of(response), 0, "metadata|" + response.id})}, static_cast<int>(response.status),
                response.created_at, response.background);
        for (auto& item : response.input) {
            item.response_id = response.id;
            insert(who, response.conversation_id, item, sequence++, false);
        }
        response.output.role = "assistant";
        response.output.status = ItemStatus::in_progress;
        response.output.response_id = response.id;
        insert(who, response.conversation_id, response.output, sequence, true);
        check_quota(who, !in_conversation && response.previous_response_id.empty());
        commit(transaction, [&] { return has_response(who, response.id); });
        return response;
    }

    void checkpoint(const Identity& who, const Response& response) override {
        Transaction transaction(db_);
        if (!is_open(who, response.id)) return;
        write_output(who, response, ItemStatus::in_progress);
        transaction.commit();
    }

    /// The first final state stays: a second call (a retry, a cancel that came late) changes nothing. What can't be written is tried
    /// again before the next turn.
    void finish_response(const Identity& who, const Response& response) override {
        try {
            finish(who, response);
        } catch (const StorageError&) {
            if (unfinished_.size() < most_unfinished) unfinished_.emplace_back(who, response);
            throw;
        }
    }

    void finish(const Identity& who, const Response& response) {
        Transaction transaction(db_);
        const auto changed = db_.run(
            "UPDATE response SET status = ?4, incomplete_reason = ?5, input_tokens = ?6, output_tokens = ?7 "
            "WHERE " OWNED " AND id = ?3 AND (status = 0 OR incomplete_reason = 'interrupted')",
            who.uid, who.tenant, response.id, static_cast<int>(response.status), response.incomplete_reason,
            response.input_tokens, response.output_tokens);
        if (changed == 0) return;
        write_output(who, response,
                     response.status == ResponseStatus::completed     ? ItemStatus::completed
                     : response.status == ResponseStatus::in_progress ? ItemStatus::in_progress
                                                                      : ItemStatus::incomplete);
        std::string conversation;
        {
            auto query = db_.query("SELECT conversation_id FROM response WHERE " OWNED " AND id = ?3", who.uid, who.tenant,
                                   response.id);
            if (query.step()) conversation = query.text(0);
        }
        if (!conversation.empty()) touch(who, conversation, 0);
        commit(transaction, [&] { return !is_open(who, response.id); });
    }

    std::optional<Response> response(const Identity& who, std::string_view id) override {
        Response found;
        {
            auto query = db_.query(
                "SELECT id, conversation_id, previous_response_id, model, instructions, metadata, status, incomplete_reason, "
                "created_at, input_tokens, output_tokens, background FROM response WHERE " OWNED " AND id = ?3",
                who.uid, who.tenant, id);
            if (!query.step()) return std::nullopt;
            found.id = query.text(0);
            found.conversation_id = query.text(1);
            found.previous_response_id = query.text(2);
            found.model = query.text(3);
            found.instructions = sealing_.open(query.blob(4), {who, session_of(found), 0, "instructions|" + found.id});
            found.metadata = sealing_.open(query.blob(5), {who, session_of(found), 0, "metadata|" + found.id});
            found.status = static_cast<ResponseStatus>(query.integer(6));
            found.incomplete_reason = query.text(7);
            found.created_at = query.integer(8);
            found.input_tokens = static_cast<int>(query.integer(9));
            found.output_tokens = static_cast<int>(query.integer(10));
            found.background = query.integer(11) != 0;
        }
        auto query = db_.query("SELECT " ITEM_COLUMNS ", output FROM item WHERE " OWNED " AND response_id = ?3 ORDER BY sequence",
                               who.uid, who.tenant, id);
        while (query.step()) {
            if (query.integer(8)) found.output = read_item(who, query);
            else found.input.push_back(read_item(who, query));
        }
        return found;
    }

    /// A conversation keeps its items: they are the conversation's, the response only made them.
    bool remove_response(const Identity& who, std::string_view id) override {
        Transaction transaction(db_);
        db_.run("UPDATE item SET response_id = NULL, output = 0, status = CASE status WHEN 0 THEN 2 ELSE status END "
                "WHERE " OWNED " AND response_id = ?3 AND conversation_id IS NOT NULL",
                who.uid, who.tenant, id);
        const auto changed = db_.run("DELETE FROM response WHERE " OWNED " AND id = ?3", who.uid, who.tenant, id);
        transaction.commit();
        return removed("response", who, id, changed);
    }

    /// nullopt also where a response in the middle was removed: an answer from half the context would mislead.
    std::optional<std::vector<Item>> chain(const Identity& who, std::string_view response_id) override {
        std::vector<std::string> links;  // newest first
        std::string conversation;        // of the oldest
        {
            auto query = db_.query(
                "WITH RECURSIVE link (id, previous, conversation, depth) AS ("
                "SELECT id, previous_response_id, conversation_id, 0 FROM response WHERE " OWNED " AND id = ?3 "
                "UNION ALL SELECT response.id, response.previous_response_id, response.conversation_id, depth + 1 FROM link JOIN response "
                "ON " OWNED " AND response.id = link.previous) SELECT id, previous, conversation FROM link ORDER BY depth",
                who.uid, who.tenant, response_id);
            std::string previous(response_id);
            while (query.step()) {
                links.push_back(query.text(0));
                previous = query.text(1);
                conversation = query.text(2);
            }
            if (!previous.empty()) return std::nullopt;
        }
        std::vector<Item> messages;
        if (!conversation.empty()) {
            auto query = db_.query("SELECT " ITEM_COLUMNS " FROM item WHERE " OWNED " AND conversation_id = ?3 AND sequence <= "
                                   "(SELECT max(sequence) FROM item WHERE " OWNED " AND response_id = ?4) ORDER BY sequence",
                                   who.uid, who.tenant, conversation, links.back());
            messages = read_items(who, query);
            if (messages.empty()) return std::nullopt;
            links.pop_back();
        }
        for (auto link = links.rbegin(); link != links.rend(); ++link) {
            auto query = db_.query("SELECT " ITEM_COLUMNS " FROM item WHERE " OWNED " AND response_id = ?3 ORDER BY sequence",
                                   who.uid, who.tenant, *link);
            while (query.step()) messages.push_back(read_item(who, query));
        }
        return messages;
    }

    void note_day(std::int64_t day) override { retention_.note_day(day); }
    std::vector<Expired> expired(int days, std::int64_t bytes) override { return retention_.expired(days, bytes); }
    SummaryStore& summaries() override { return summaries_; }

    Counts counts() override {
        return {db_.integer("SELECT count(*) FROM conversation"), db_.integer("SELECT count(*) FROM response"),
                db_.integer("SELECT coalesce(sum(bytes), 0) FROM usage")};
    }

private:
    std::int64_t now() const { return options_.clock ? options_.clock() : static_cast<std::int64_t>(std::time(nullptr)); }

    // ---- start

    void prepare() {
        const std::string subject = "the session database " + options_.path;
        // Everything that can refuse comes before the first write.
        if (db_.read_only()) throw StorageError(subject + " is read-only: check who owns the file and its folder");
        const auto application = db_.integer("PRAGMA application_id");
        const auto version = db_.integer("PRAGMA user_version");
        if (application != application_id &&
            (application != 0 || db_.integer("SELECT count(*) FROM sqlite_schema") != 0)) {
            throw StoreRefused(subject + " belongs to another program: give the daemon a path of its own");
        }
        if (version > newest_version) {
            throw StoreRefused(subject + " has format version " + std::to_string(version) + ", but this program knows only up to " +
                               std::to_string(newest_version) + ": install the newer program again, or restore the copy that it made before");
        }

        db_.configure([subject](Database& db) {
            db.script("PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF");
            {
                auto query = db.query("PRAGMA journal_mode = WAL");
                const bool wal = query.step() && (query.text(0) == "wal" || db.path() == ":memory:");
                if (!wal) throw StorageError(subject + " can't use write-ahead logging: put it on a local file system");
            }
            db.script("PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 16777216");
        });

        if (db_.integer("PRAGMA page_count") * db_.integer("PRAGMA page_size") <= checked_bytes) {
            auto query = db_.query("PRAGMA quick_check(1)");
            if (query.step() && query.text(0) != "ok") db_.fail(SQLITE_CORRUPT);
        }
    }

    static void migrate_to(Database& db, std::int64_t wanted) {
        for (auto version = db.integer("PRAGMA user_version"); version < wanted; ++version) {
            Transaction transaction(db);
            db.script(*migrations[version]);
            db.script(("PRAGMA application_id = " + std::to_string(application_id) +
                       "; PRAGMA user_version = " + std::to_string(version + 1))
                          .c_str());
            transaction.commit();
        }
    }

    /// A copy is kept, so that the older program finds what it can read. Not of plain texts that are about to be sealed.
    void migrate() {
        const auto version = db_.integer("PRAGMA user_version");
        if (version == newest_version) return;
        const bool sealed = version >= first_sealed_version && db_.integer("SELECT count(*) FROM sealing WHERE state = 2") > 0;
        if (version > 0 && options_.path != ":memory:" && (sealed || !options_.key)) note(copies_.make(db_, version));
        migrate_to(db_, newest_version);
    }

    /// Answers that the last run left open. On a full disk that waits for the next turn: reading must be possible.
    void settle() try {
        Transaction transaction(db_);
        db_.run("UPDATE response SET status = ?1, incomplete_reason = 'interrupted' WHERE status = 0",
                static_cast<int>(ResponseStatus::incomplete));
        db_.run("UPDATE item SET status = ?1 WHERE status = 0", static_cast<int>(ItemStatus::incomplete));
        transaction.commit();
        unsettled_ = false;
    } catch (const StorageFull& error) {
        if (unsettled_) throw;
        unsettled_ = true;
        note(error.what());
    }

    void finish_unfinished() {
        while (!unfinished_.empty()) {
            finish(unfinished_.back().first, unfinished_.back().second);
            unfinished_.pop_back();
        }
    }

    /// A COMMIT that reports an error may have persisted: the database is opened again and asked. What is there then is written to
    /// its file for good before anybody is told so, since the log's failed sync left that open.
    template <class There>
    void commit(Transaction& transaction, There there) {
        try {
            transaction.commit();
        } catch (const StorageError&) {
            sealing_.forget();
            if (!there()) throw;
            db_.truncate_wal();
        }
    }

    // ---- rows

    static const std::string& session_of(const Response& response) {
        return response.conversation_id.empty() ? response.id : response.conversation_id;
    }

    /// What was cut off may have been finished before (by a limit), or never.
    std::string open_content(std::string_view stored, Place place, ItemStatus status) {
        if (status == ItemStatus::incomplete) {
            try {
                return sealing_.open(stored, place);
            } catch (const StorageError&) {
            }
        }
        place.version = status == ItemStatus::completed;
        return sealing_.open(stored, place);
    }

    Item read_item(const Identity& who, const Statement& query) {
        Item item;
        item.id = query.text(0);
        item.role = query.text(1);
        item.status = static_cast<ItemStatus>(query.integer(3));
        item.sequence = query.integer(4);
        item.created_at = query.integer(5);
        item.response_id = query.text(6);
        const auto conversation = query.text(7);
        item.content = open_content(query.blob(2), {who, conversation.empty() ? item.response_id : conversation, item.sequence, item.role}, item.status);
        return item;
    }

    std::vector<Item> read_items(const Identity& who, Statement& query) {
        std::vector<Item> items;
        while (query.step()) items.push_back(read_item(who, query));
        return items;
    }

    std::string open_metadata(const Identity& who, const Statement& conversation) {
        const auto id = conversation.text(0);
        return sealing_.open(conversation.blob(3), {who, id, 0, "metadata", sealing_.revision(who, id)});
    }

    Conversation read_conversation(const Identity& who, const Statement& row) {
        Conversation found;
        found.id = row.text(0);
        found.created_at = row.integer(1);
        found.updated_at = row.integer(2);
        found.metadata = open_metadata(who, row);
        found.touched = row.integer(4);
        {
            auto query = db_.query("SELECT count(*) FROM item WHERE " OWNED " AND conversation_id = ?3", who.uid, who.tenant,
                                   found.id);
            if (query.step()) found.items = query.integer(0);
        }
        auto query = db_.query("SELECT " ITEM_COLUMNS " FROM item WHERE " OWNED
                               " AND conversation_id = ?3 AND role = 'user' ORDER BY sequence LIMIT 1",
                               who.uid, who.tenant, found.id);
        if (query.step()) found.preview = preview_of(read_item(who, query).content);
        return found;
    }

    Conversation insert_conversation(const Identity& who, std::string metadata) {
        Conversation made;
        made.id = new_id("conv_");
        made.created_at = made.updated_at = now();
        made.metadata = std::move(metadata);
        db_.run("INSERT INTO conversation (uid, tenant, id, created_at, updated_at, touched, metadata) "
                "VALUES (?1, ?2, ?3, ?4, ?4, (SELECT coalesce(max(touched), 0) + 1 FROM conversation WHERE " OWNED "), ?5)",
                who.uid, who.tenant, made.id, made.created_at, Blob{sealing_.seal(made.metadata, {who, made.id, 0, "metadata"})});
        return made;
    }

    void insert(const Identity& who, std::string_view conversation, Item& item, std::int64_t sequence, bool output) {
        if (item.id.empty()) item.id = new_id("msg_");
        item.sequence = sequence;
        if (item.created_at == 0) item.created_at = now();
        const std::string_view session = conversation.empty() ? std::string_view(item.response_id) : conversation;
        db_.run("INSERT INTO item (uid, tenant, id, conversation_id, response_id, output, sequence, role, status, created_at, "
                "content) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                who.uid, who.tenant, item.id, OptionalText{conversation}, OptionalText{item.response_id}, output, sequence,
                item.role, static_cast<int>(item.status), item.created_at,
                Blob{sealing_.seal(item.content, {who, session, sequence, item.role, item.status != ItemStatus::in_progress})});
    }

    void write_output(const Identity& who, const Response& response, ItemStatus status) {
        Item item;
        std::string session;
        {
            auto query = db_.query("SELECT id, sequence, role, coalesce(conversation_id, response_id) FROM item WHERE " OWNED
                                   " AND response_id = ?3 AND output = 1",
                                   who.uid, who.tenant, response.id);
            if (!query.step()) return;  // the user removed the item meanwhile
            item.id = query.text(0);
            item.sequence = query.integer(1);
            item.role = query.text(2);
            session = query.text(3);
        }
        db_.run("UPDATE item SET content = ?4, status = ?5 WHERE " OWNED " AND id = ?3", who.uid, who.tenant, item.id,
                Blob{sealing_.seal(response.output.content, {who, session, item.sequence, item.role, status != ItemStatus::in_progress})},
                static_cast<int>(status));
    }

    // ---- checks

    /// Makes the conversation the newest and reserves sequence numbers; the first of them, or nullopt: no such conversation.
    std::optional<std::int64_t> touch(const Identity& who, std::string_view conversation, std::int64_t reserve) {
        auto query = db_.query(
            "UPDATE conversation SET updated_at = ?4, next_sequence = next_sequence + ?5, "
            "touched = (SELECT max(touched) + 1 FROM conversation WHERE " OWNED ") "
            "WHERE " OWNED " AND id = ?3 RETURNING next_sequence",
            who.uid, who.tenant, conversation, now(), reserve);
        if (!query.step()) return std::nullopt;
        return query.integer(0) - reserve;
    }

    bool exists(const Identity& who, std::string_view conversation) {
        return db_.query("SELECT 1 FROM conversation WHERE " OWNED " AND id = ?3", who.uid, who.tenant, conversation).step();
    }

    bool has_response(const Identity& who, std::string_view id) {
        return db_.query("SELECT 1 FROM response WHERE " OWNED " AND id = ?3", who.uid, who.tenant, id).step();
    }

    bool is_open(const Identity& who, std::string_view id) {
        return db_.query("SELECT 1 FROM response WHERE " OWNED " AND id = ?3 AND status = 0", who.uid, who.tenant, id).step();
    }

    /// After the rows are in, before the commit: what throws here is rolled back.
    void check_quota(const Identity& who, bool new_session) {
        auto query = db_.query("SELECT sessions, bytes FROM usage WHERE " OWNED, who.uid, who.tenant);
        if (!query.step()) return;
        StoreLimits limits = options_.limits;
        if (const auto own = options_.tenants.find(who.tenant); own != options_.tenants.end()) limits = own->second;
        if (new_session && query.integer(0) > limits.sessions)
            throw QuotaExceeded("the limit of " + std::to_string(limits.sessions) + " sessions is reached: remove some first");
        if (query.integer(1) > limits.bytes)
            throw QuotaExceeded("the limit of " + std::to_string(limits.bytes) + " stored bytes is reached: remove some sessions first");
    }

    /// A disk that fails here doesn't undo the removal: it is tried again before the next turn.
    void empty_log() {
        log_has_removed_ = true;
        try {
            db_.truncate_wal();
            log_has_removed_ = false;
        } catch (const StorageError&) {
        }
    }

    /// What was removed must not survive in the log either.
    bool removed(const char* table, const Identity& who, std::string_view id, std::int64_t rows) {
        sealing_.forget();
        if (rows > 0) {
            copies_.remove_row(table, who, id);
            empty_log();
        }
        return rows > 0;
    }

    StoreOptions options_;
    OwnerLock lock_;
    Database db_;
    Copies copies_;
    Sealing sealing_;
    Retention retention_{db_};
    SummaryRows summaries_{db_, sealing_, options_.summaries};
    std::vector<std::string> notices_;
    std::vector<std::pair<Identity, Response>> unfinished_;  // answers whose last commit failed
    bool unsettled_ = false, log_has_removed_ = false;
};

#undef ITEM_COLUMNS
#undef OWNED

}  // namespace

std::unique_ptr<SessionStore> SessionStore::open(const StoreOptions& options) {
    if (options.path == ":memory:") return std::make_unique<SqliteStore>(options);
    finish_salvage(options.path);
    make_private(options.path);
    try {
        return std::make_unique<SqliteStore>(options);
    } catch (const StorageDamaged&) {
        const std::string notice = SqliteStore::salvage(options.path);
        auto store = std::make_unique<SqliteStore>(options);
        store->note(notice);
        return store;
    }
}

std::string new_id(std::string_view prefix) {
    unsigned char bytes[24];
    for (std::size_t filled = 0; filled < sizeof bytes;) {
        const auto got = ::getrandom(bytes + filled, sizeof bytes - filled, 0);
        if (got > 0) filled += static_cast<std::size_t>(got);
        else if (errno != EINTR) throw StorageError("the system gives no random numbers");
    }
    std::string id(prefix);
    for (const unsigned char byte : bytes) {
        id += "0123456789abcdef"[byte >> 4];
        id += "0123456789abcdef"[byte & 15];
    }
    return id;
}

}  // namespace glmd
