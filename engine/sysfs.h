#pragma once
// Small files of /sys and /proc.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

namespace glmd {

/// The first word of a file as T; nothing where it can't be read.
template <class T>
std::optional<T> read_value(const std::string& file) {
    T value;
    if (std::ifstream(file) >> value) return value;
    return {};
}

/// The first line without what ends it (a device tree's strings end in a zero); empty where it can't be read.
inline std::string read_line_of(const std::string& file) {
    std::string line;
    std::ifstream in(file);
    std::getline(in, line);
    while (!line.empty() && (line.back() == '\0' || line.back() == '\r')) line.pop_back();
    return line;
}

/// What lies in a folder and begins with `prefix`, whole paths, sorted.
inline std::vector<std::string> entries(const std::string& folder, const std::string& prefix = "") {
    std::vector<std::string> found;
    std::error_code error;
    for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
        if (it->path().filename().string().starts_with(prefix)) found.push_back(it->path().string());
    std::sort(found.begin(), found.end());
    return found;
}

}  // namespace glmd
