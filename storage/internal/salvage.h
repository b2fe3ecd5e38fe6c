#pragma once
// A database that SQLite finds broken: what can be read of it goes into a new one, which takes its place; the old one is kept.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "storage/internal/sqlite.h"

namespace glmd {

struct Salvage {
    std::int64_t rows = 0, unreadable = 0;  // rows that were read; rows, or pages of many, that could not be
    std::string kept;                       // the damaged file now
};

/// `create` makes the tables of that version in an empty database. Throws StorageError: nothing could be read or written, and all is
/// as it was.
Salvage salvage(const std::string& path, const std::function<void(sqlite::Database&, std::int64_t version)>& create);

/// What a salvage that was cut off had finished takes its place.
void finish_salvage(const std::string& path);

/// path.damaged, path.damaged-2 and so on, those that are there.
std::vector<std::string> damaged_files(const std::string& path);

}  // namespace glmd
