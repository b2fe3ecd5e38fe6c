// Peculiar: SQLite's result codes become one sentence for the administrator; statement text and bound values never get
// into a message. A cached statement is cleared when it goes out of scope, so that no user's text lingers in a binding.
#include "storage/internal/sqlite.h"

#include <cerrno>

#include "storage/session_store.h"

namespace glmd::sqlite {

Statement::~Statement() {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
}

void Statement::check(int code) const {
    if (code != SQLITE_OK) database_.fail(code);
}

void Statement::bind(int index, std::string_view text) {
    check(sqlite3_bind_text64(statement_, index, text.data() ? text.data() : "", text.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
}

void Statement::bind(int index, Blob blob) {
    check(sqlite3_bind_blob64(statement_, index, blob.bytes.data() ? blob.bytes.data() : "", blob.bytes.size(),
                              SQLITE_TRANSIENT));
}

void Statement::bind(int index, OptionalText text) {
    if (text.text.empty()) check(sqlite3_bind_null(statement_, index));
    else bind(index, text.text);
}

void Statement::bind_integer(int index, std::int64_t number) { check(sqlite3_bind_int64(statement_, index, number)); }

bool Statement::step() {
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code != SQLITE_DONE) database_.fail(code);
    return false;
}

std::string Statement::text(int column) const {
    const auto* start = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return start ? std::string(start, sqlite3_column_bytes(statement_, column)) : std::string();
}

std::string_view Statement::blob(int column) const {
    const auto* start = static_cast<const char*>(sqlite3_column_blob(statement_, column));
    return start ? std::string_view(start, sqlite3_column_bytes(statement_, column)) : std::string_view();
}

void Database::open() {
    sqlite3* handle = nullptr;
    const int code = sqlite3_open_v2(path_.c_str(), &handle,
                                     SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
                                     nullptr);
    handle_.reset(handle);  // a failed open has a handle, too
    try {
        if (code != SQLITE_OK) fail(code);
        sqlite3_busy_timeout(handle, 5000);
        if (use_ == Use::alone) script("PRAGMA locking_mode = EXCLUSIVE");
        if (settings_) settings_(*this);
    } catch (const StorageError&) {
        close();
        throw;
    }
}

void Database::configure(std::function<void(Database&)> settings) {
    settings(*this);
    settings_ = std::move(settings);
}

void Database::close() {
    statements_.clear();
    handle_.reset();
}

sqlite3_stmt* Database::prepare(std::string_view sql) {
    if (!handle_) open();
    auto& cached = statements_[std::string(sql)];
    if (cached && sqlite3_stmt_busy(cached.get())) throw StorageError("a storage statement was used inside itself");
    if (!cached) {
        sqlite3_stmt* made = nullptr;
        const int code = sqlite3_prepare_v3(handle_.get(), sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT,
                                            &made, nullptr);
        if (code != SQLITE_OK) fail(code);
        cached.reset(made);
    }
    return cached.get();
}

std::int64_t Database::integer(std::string_view sql) {
    auto statement = query(sql);
    return statement.step() ? statement.integer(0) : 0;
}

void Database::script(const char* sql) {
    if (!handle_) open();
    const int code = sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) fail(code);
}

bool Database::truncate_wal() {
    if (!handle_) open();
    const int code = sqlite3_wal_checkpoint_v2(handle_.get(), "main", SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
    if ((code & 0xff) == SQLITE_BUSY || (code & 0xff) == SQLITE_LOCKED) return false;
    if (code != SQLITE_OK) fail(code);
    return true;
}

std::string Database::file_bytes(const char* schema, std::int64_t at, std::size_t count) const {
    sqlite3_file* file = nullptr;  // SQLite's own: closing another descriptor of the file would drop SQLite's locks
    std::string bytes(count, '\0');
    if (sqlite3_file_control(handle_.get(), schema, SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK || !file || !file->pMethods) return {};
    return file->pMethods->xRead(file, bytes.data(), static_cast<int>(count), at) == SQLITE_OK ? bytes : std::string();
}

void Database::fail(int code) const {
    const std::string subject = "the session database " + path_;
    const int system = handle_ ? sqlite3_system_errno(handle_.get()) : 0;
    switch (code & 0xff) {
        case SQLITE_FULL: throw StorageFull(subject + " can't be written: the disk is full");
        case SQLITE_READONLY: throw StorageError(subject + " is read-only: check who owns the file and its folder");
        case SQLITE_CANTOPEN:
            throw StorageError(subject + " can't be opened: check that its folder exists and that the daemon may write there");
        case SQLITE_PERM:
        case SQLITE_AUTH: throw StorageError(subject + " can't be used: permission denied");
        case SQLITE_CORRUPT:
            throw StorageDamaged(subject + " is damaged: start the daemon again, which salvages what can be read");
        case SQLITE_NOTADB:
            throw StoreRefused(subject + " isn't a database: move the file aside or restore a copy, and start again");
        case SQLITE_BUSY:
        case SQLITE_LOCKED: throw StorageError(subject + " is locked by another program");
        case SQLITE_IOERR:
            if (system == ENOSPC || system == EDQUOT) throw StorageFull(subject + " can't be written: the disk is full");
            throw StorageError(subject + ": reading or writing failed (I/O error " + std::to_string(code) + ")");
        case SQLITE_NOMEM: throw StorageError(subject + ": out of memory");
        case SQLITE_TOOBIG: throw StorageError("a text is too large for the session database");
        case SQLITE_CONSTRAINT: throw StorageError("the session database refused a row that breaks its rules (an id used twice?)");
        default: throw StorageError(subject + ": " + sqlite3_errstr(code) + " (" + std::to_string(code) + ")");
    }
}

Transaction::Transaction(Database& database) : database_(database) { database_.run("BEGIN IMMEDIATE"); }

Transaction::~Transaction() {
    if (!database_.in_transaction()) return;  // committed, or SQLite rolled back by itself
    try {
        database_.run("ROLLBACK");
    } catch (const StorageError&) {
        database_.close();
    }
}

void Transaction::commit() {
    try {
        database_.run("COMMIT");
    } catch (const StorageError&) {
        database_.close();
        throw;
    }
}

}  // namespace glmd::sqlite
