// Peculiar: the numbers of a table's rows are read from its pages themselves (sqlite.org/fileformat2.html, 1.6), and each row is then
// reached by its number, on its own way down the tree. So a broken page costs the rows on it and no others, and pages in a wrong order lead
// nowhere twice. Nothing is done to the damaged file but moving its log into it and renaming it, after the new one lies whole and synced
// beside it (PATH.salvaged).
#include "storage/internal/salvage.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "storage/internal/file.h"

namespace glmd {
namespace fs = std::filesystem;
namespace {

using sqlite::Database;

std::string folder_of(const std::string& path) {
    const fs::path folder = fs::path(path).parent_path();
    return folder.empty() ? "." : folder.string();
}

std::string damaged_name(const std::string& path, int number) { return path + ".damaged" + (number == 1 ? "" : "-" + std::to_string(number)); }

void remove_with_log(const std::string& path) {
    std::error_code error;
    for (const char* suffix : {"", "-wal", "-shm", "-journal"}) fs::remove(path + suffix, error);
}

/// A page of a table's tree as it lies in the file.
class Page {
public:
    explicit Page(std::string_view bytes) : bytes_(bytes) {}
    bool is_leaf() const { return number(0, 1) == 13; }
    bool is_interior() const { return number(0, 1) == 5; }
    std::vector<std::size_t> cells() const {
        std::vector<std::size_t> all(number(3, 2));
        for (std::size_t i = 0; i < all.size(); ++i) all[i] = number((is_leaf() ? 8 : 12) + 2 * i, 2);
        return all;
    }
    /// Of an interior page.
    std::vector<std::size_t> children() const {
        std::vector<std::size_t> all{number(8, 4)};
        for (const std::size_t cell : cells()) all.push_back(number(cell, 4));
        return all;
    }
    /// Of a leaf. A cell is the row's size, its number, and the row.
    std::vector<std::int64_t> rows() const {
        std::vector<std::int64_t> all;
        for (std::size_t cell : cells()) {
            varint(cell);
            all.push_back(varint(cell));
        }
        return all;
    }

private:
    std::size_t byte(std::size_t at) const { return at < bytes_.size() ? static_cast<unsigned char>(bytes_[at]) : 0; }
    std::size_t number(std::size_t at, int width) const {
        std::size_t value = 0;
        for (int i = 0; i < width; ++i) value = value << 8 | byte(at + std::size_t(i));
        return value;
    }
    std::int64_t varint(std::size_t& at) const {
        std::uint64_t value = 0;
        for (int i = 0; i < 9; ++i) {
            const std::size_t next = byte(at++);
            if (i == 8) return std::int64_t(value << 8 | next);
            value = value << 7 | (next & 0x7f);
            if (next < 0x80) break;
        }
        return std::int64_t(value);
    }
    std::string_view bytes_;
};

/// Copies what can be read of one table.
void walk(Database& db, const std::string& table, Salvage& result) {
    std::string columns;
    {
        auto query = db.query("SELECT group_concat(name, ', ') FROM pragma_table_info(?1)", std::string_view(table));
        if (query.step()) columns = query.text(0);
    }
    const std::string copy = "INSERT OR IGNORE INTO main." + table + " (" + columns + ") SELECT " + columns + " FROM old." + table + " WHERE rowid = ?1";
    std::size_t page_size = 0;
    std::vector<std::size_t> open;
    try {
        db.query(copy, 0);
        page_size = std::size_t(db.integer("PRAGMA old.page_size"));
        open.push_back(std::size_t(db.integer("SELECT rootpage FROM old.sqlite_schema WHERE type = 'table' AND name = '" + table + "'")));
    } catch (const StorageError&) {
        return;  // the table itself is unknown there
    }
    std::set<std::size_t> seen{0};
    std::set<std::int64_t> rows;
    while (!open.empty()) {
        const std::size_t number = open.back();
        open.pop_back();
        if (!seen.insert(number).second) continue;
        const std::string bytes = db.file_bytes("old", std::int64_t((number - 1) * page_size), page_size);
        const Page page(bytes);
        if (page.is_interior()) std::ranges::copy(page.children(), std::back_inserter(open));
        else if (page.is_leaf()) std::ranges::copy(page.rows(), std::inserter(rows, rows.end()));
        else ++result.unreadable;
    }
    for (const std::int64_t row : rows) {
        try {
            (db.run(copy, row) > 0 ? result.rows : result.unreadable) += 1;
        } catch (const StorageFull&) {
            throw;
        } catch (const StorageError&) {
            ++result.unreadable;
        }
    }
}

/// What hung on lost rows gets new ones: a conversation without its title is better than none. Texts whose session's key is lost go.
void mend(Database& db) {
#define KEYLESS(text, session) \
    " WHERE substr(" text ", 1, 1) = x'02' AND NOT EXISTS (SELECT 1 FROM session_key k WHERE k.uid = t.uid AND k.tenant = t.tenant AND k.session = " session ")"
    if (db.integer("SELECT count(*) FROM sqlite_schema WHERE name = 'session_key'"))
        db.script("DELETE FROM item AS t" KEYLESS("content", "coalesce(conversation_id, response_id)") ";"
                  "UPDATE response AS t SET instructions = x'01', metadata = x'017b7d'" KEYLESS("metadata", "coalesce(conversation_id, id)") ";"
                  "UPDATE conversation AS t SET metadata = x'017b7d'" KEYLESS("metadata", "id"));
#undef KEYLESS
    db.script(
        "INSERT INTO response (uid, tenant, id, model, instructions, metadata, status, incomplete_reason, created_at)"
        " SELECT uid, tenant, response_id, '', x'01', x'017b7d', 2, 'salvaged', min(created_at) FROM item"
        " WHERE conversation_id IS NULL AND NOT EXISTS (SELECT 1 FROM response r WHERE r.uid = item.uid AND r.tenant = item.tenant AND r.id = item.response_id)"
        " GROUP BY uid, tenant, response_id;"
        "UPDATE item SET response_id = NULL, output = 0 WHERE response_id IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM response r WHERE r.uid = item.uid AND r.tenant = item.tenant AND r.id = item.response_id);"
        "INSERT INTO conversation (uid, tenant, id, created_at, updated_at, touched, next_sequence, metadata)"
        " SELECT uid, tenant, conversation_id, min(created_at), max(created_at),"
        "  (SELECT coalesce(max(touched), 0) FROM conversation) + row_number() OVER (), coalesce(max(sequence), 0) + 1, x'017b7d'"
        " FROM (SELECT uid, tenant, conversation_id, created_at, sequence FROM item WHERE conversation_id IS NOT NULL UNION ALL"
        "  SELECT uid, tenant, conversation_id, created_at, NULL FROM response WHERE conversation_id IS NOT NULL) AS child"
        " WHERE NOT EXISTS (SELECT 1 FROM conversation c WHERE c.uid = child.uid AND c.tenant = child.tenant AND c.id = child.conversation_id)"
        " GROUP BY uid, tenant, conversation_id;"
        // next_sequence never goes back, and a conversation's row may be an older one than its items.
        "UPDATE conversation SET next_sequence = max(next_sequence, 1 + coalesce((SELECT max(sequence) FROM item WHERE item.uid = conversation.uid"
        " AND item.tenant = conversation.tenant AND item.conversation_id = conversation.id), 0))");
    if (db.integer("SELECT count(*) FROM sqlite_schema WHERE name = 'sealing'")) db.script("UPDATE sealing SET state = 1");  // the new rows are plain
}

}  // namespace

Salvage salvage(const std::string& path, const std::function<void(Database&, std::int64_t)>& create) {
    Salvage result;
    const std::string made = path + ".salvage";
    remove_with_log(made);
    ::close(::open(made.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
    {
        Database db(made, Database::Use::alone);
        // writable_schema: else a file that is shorter than it says isn't read at all. Every row is a transaction of its own, since
        // none that has met a broken page can be committed; the file is synced once, at the end.
        db.script("PRAGMA writable_schema = ON; PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF");
        db.run("ATTACH ?1 AS old", std::string_view(path));
        db.run("PRAGMA old.wal_checkpoint(TRUNCATE)");
        create(db, db.integer("PRAGMA old.user_version"));
        db.script("PRAGMA foreign_keys = OFF");
        std::vector<std::string> tables;
        {
            auto query = db.query("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'usage'");
            while (query.step()) tables.push_back(query.text(0));
        }
        for (const std::string& table : tables) walk(db, table, result);
        mend(db);
    }
    sync(made, O_RDWR);
    fs::rename(made, path + ".salvaged");
    sync(folder_of(path), O_RDONLY | O_DIRECTORY);
    finish_salvage(path);
    result.kept = damaged_files(path).back();
    return result;
}

void finish_salvage(const std::string& path) {
    const std::string made = path + ".salvaged";
    if (!fs::exists(made)) return;
    if (fs::exists(path)) {
        int number = 1;
        while (fs::exists(damaged_name(path, number))) ++number;
        if (fs::exists(path + "-wal")) fs::rename(path + "-wal", damaged_name(path, number) + "-wal");
        fs::rename(path, damaged_name(path, number));
    }
    remove_with_log(path);
    fs::rename(made, path);
    sync(folder_of(path), O_RDONLY | O_DIRECTORY);
}

std::vector<std::string> damaged_files(const std::string& path) {
    std::vector<std::string> files;
    for (int number = 1; fs::exists(damaged_name(path, number)); ++number) files.push_back(damaged_name(path, number));
    return files;
}

}  // namespace glmd
