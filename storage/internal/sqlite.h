#pragma once
// SQLite with scopes: a statement resets itself, a transaction that wasn't committed rolls back, errors are StorageError.
#include <sqlite3.h>

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

namespace glmd::sqlite {

struct Blob {
    std::string_view bytes;
};

/// Text, or NULL where it is empty.
struct OptionalText {
    std::string_view text;
};

class Database;

/// A cached statement in use. Bound values are copied.
class Statement {
public:
    Statement(Database& database, sqlite3_stmt* statement) : database_(database), statement_(statement) {}
    template <class... Arguments>
        requires(sizeof...(Arguments) > 0)
    Statement(Database& database, sqlite3_stmt* statement, const Arguments&... arguments) : Statement(database, statement) {
        int index = 0;
        (bind(++index, arguments), ...);
    }
    Statement(const Statement&) = delete;
    Statement& operator=(const Statement&) = delete;
    ~Statement();

    void bind(int index, std::string_view text);
    void bind(int index, Blob blob);
    void bind(int index, OptionalText text);
    void bind(int index, std::integral auto number) { bind_integer(index, static_cast<std::int64_t>(number)); }

    bool step();  // true: a row
    std::int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
    bool null(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
    std::string text(int column) const;
    std::string_view blob(int column) const;  // until the next step

private:
    void bind_integer(int index, std::int64_t number);
    void check(int code) const;
    Database& database_;
    sqlite3_stmt* statement_;
};

class Database {
public:
    /// Alone: no other connection reads or writes it meanwhile, so that the log's index is in this process' own memory. In a mapped
    /// file, as is usual, a full disk or one that turns read-only would be a SIGBUS.
    enum class Use { shared, alone };
    explicit Database(const std::string& path, Use use = Use::shared) : path_(path), use_(use) { open(); }
    /// Runs now, and whenever the database is opened again.
    void configure(std::function<void(Database&)> settings);
    /// What a failed write left in memory is dropped; the next call opens the database again. No statement may be in use.
    void close();
    Database(const Database&) = delete;
    Database& operator=(const Database&) = delete;

    template <class... Arguments>
    Statement query(std::string_view sql, const Arguments&... arguments);
    /// Runs to the end; returns how many rows changed.
    template <class... Arguments>
    std::int64_t run(std::string_view sql, const Arguments&... arguments);
    std::int64_t integer(std::string_view sql);

    void script(const char* sql);  // several statements, no arguments
    bool in_transaction() const { return handle_ && !sqlite3_get_autocommit(handle_.get()); }
    bool read_only() const { return sqlite3_db_readonly(handle_.get(), "main") == 1; }
    const std::string& path() const { return path_; }
    /// Of an attached database's file as it lies there, without the log; empty where it has fewer.
    std::string file_bytes(const char* schema, std::int64_t at, std::size_t count) const;
    /// Moves the WAL into the database and empties it; false: a reader was in the way.
    bool truncate_wal();
    [[noreturn]] void fail(int code) const;

private:
    struct Close {
        void operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }
    };
    struct Finalize {
        void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
    };
    sqlite3_stmt* prepare(std::string_view sql);
    void open();

    std::string path_;
    Use use_;
    std::function<void(Database&)> settings_;
    std::unique_ptr<sqlite3, Close> handle_;
    std::unordered_map<std::string, std::unique_ptr<sqlite3_stmt, Finalize>> statements_;
    friend class Statement;
};

class Transaction {
public:
    explicit Transaction(Database& database);
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;
    ~Transaction();
    /// An error leaves open whether it persisted: only the database, which is opened again then, knows.
    void commit();

private:
    Database& database_;
};

template <class... Arguments>
Statement Database::query(std::string_view sql, const Arguments&... arguments) {
    return Statement(*this, prepare(sql), arguments...);
}

template <class... Arguments>
std::int64_t Database::run(std::string_view sql, const Arguments&... arguments) {
    auto statement = query(sql, arguments...);
    while (statement.step()) {
    }
    return sqlite3_changes64(handle_.get());
}

}  // namespace glmd::sqlite
