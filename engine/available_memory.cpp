#include "engine/available_memory.h"

#include <algorithm>
#include <cstdint>
#include <fstream>

namespace glmd {
namespace {

/// A cgroup's file with one number, or "max".
std::size_t only_number(const std::string& path, std::size_t otherwise) {
    std::ifstream f(path);
    std::size_t n = 0;
    return f >> n ? n : otherwise;
}

}  // namespace

std::size_t number_of(const std::string& path, const std::string& key) {
    std::ifstream f(path);
    for (std::string word, rest; f >> word; std::getline(f, rest))
        if (std::size_t n = 0; word == key && f >> n) return n;
    return 0;
}

std::size_t cgroup_room(const std::string& root, const std::string& path) {
    std::size_t room = SIZE_MAX;
    for (std::string at = path; !at.empty() && at != "/"; at.erase(at.rfind('/'))) {
        const std::string folder = root + at;
        const std::size_t limit = std::min(only_number(folder + "/memory.max", SIZE_MAX), only_number(folder + "/memory.high", SIZE_MAX));
        if (limit == SIZE_MAX) continue;
        const std::size_t cache = number_of(folder + "/memory.stat", "inactive_file") + number_of(folder + "/memory.stat", "active_file");
        const std::size_t current = only_number(folder + "/memory.current", 0), used = current - std::min(current, cache);
        room = std::min(room, limit - std::min(limit, used));
    }
    return room;
}

std::size_t available_memory() {
    std::size_t available = number_of("/proc/meminfo", "MemAvailable:") * 1024;
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);)
        if (line.starts_with("0::/")) {
            const std::size_t room = cgroup_room("/sys/fs/cgroup", line.substr(3));
            if (room != SIZE_MAX) available = available ? std::min(available, room) : std::max<std::size_t>(room, 1);
        }
    return available;
}

}  // namespace glmd
