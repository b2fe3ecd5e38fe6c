#include "engine/available_memory.h"

#include <catch2/catch.hpp>
#include <cstdint>
#include <fstream>

#include "tests/scratch.h"

using namespace glmd;

TEST_CASE("available memory: the tightest cgroup on the way up counts, and its page cache is free") {
    const Scratch root;
    const auto group = [&](const std::string& path, const char* max, const char* high, const char* current) {
        std::filesystem::create_directories(root.file(path));
        std::ofstream(root.file(path + "/memory.max")) << max << '\n';
        std::ofstream(root.file(path + "/memory.high")) << high << '\n';
        std::ofstream(root.file(path + "/memory.current")) << current << '\n';
        std::ofstream(root.file(path + "/memory.stat")) << "anon 100\ninactive_file 300\nactive_file 200\n";
    };
    group("a", "max", "max", "600");
    group("a/b", "max", "max", "600");
    CHECK(cgroup_room(root.path, "/a/b") == SIZE_MAX);
    group("a/b", "5000", "max", "600");
    CHECK(cgroup_room(root.path, "/a/b") == 4900);
    group("a/b", "5000", "4000", "600");
    CHECK(cgroup_room(root.path, "/a/b") == 3900);
    group("a", "1000", "max", "900");
    CHECK(cgroup_room(root.path, "/a/b") == 600);
    group("a", "100", "max", "900");
    CHECK(cgroup_room(root.path, "/a/b") == 0);
    CHECK(cgroup_room(root.path, "/") == SIZE_MAX);
    CHECK(available_memory() > 0);
}
