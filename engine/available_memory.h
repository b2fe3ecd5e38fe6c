#pragma once
// How much memory this process may still use: what the machine has left, and what systemd's MemoryMax= and MemoryHigh= leave of it.
#include <cstddef>
#include <string>

namespace glmd {

/// Bytes, the page cache counted as free; 0 where the system doesn't say.
std::size_t available_memory();

/// The number behind a key of a file like /proc/meminfo ("MemTotal:"); 0 without.
std::size_t number_of(const std::string& path, const std::string& key);

/// The least that the cgroup at `path` below the version 2 hierarchy at `root`, or one above it, has left; SIZE_MAX: no bound.
std::size_t cgroup_room(const std::string& root, const std::string& path);

}  // namespace glmd
