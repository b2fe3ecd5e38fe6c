// Layers of random sizes, asked for in every order, beside what is in the file.
#include "engine/checkpoint/layer_stream.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "tests/engine/error_of.h"
#include "tests/scratch.h"

using namespace glmd;

namespace {

constexpr std::size_t page = 4096;

/// A file of random bytes, and layers in it.
struct Layers {
    std::string path, bytes;
    std::vector<ByteRange> ranges;

    Layers(std::string file, int count, std::mt19937& random, int most_pages = 40) : path(std::move(file)) {
        std::uint64_t at = page * (1 + random() % 3);
        for (int i = 0; i < count; ++i) {
            ranges.push_back({at, at + page * (1 + random() % most_pages)});
            at = ranges.back().end;
        }
        bytes.resize(at + 100);  // something follows that isn't a whole page
        for (char& c : bytes) c = static_cast<char>(random());
        write();
    }
    void write() const { std::ofstream(path, std::ios::binary) << bytes; }
    bool right(LayerStream& stream, int layer) const {
        stream.need(layer);
        return std::memcmp(stream.place(layer), bytes.data() + ranges[layer].begin, ranges[layer].size()) == 0;
    }
};

}  // namespace

TEST_CASE("layer stream: every layer is there when it is asked for, in any order") {
    std::mt19937 random(1);
    std::vector<std::string> folders{std::filesystem::temp_directory_path()};
    if (::access("/dev/shm", W_OK) == 0) folders.push_back("/dev/shm");  // tmpfs, which had no O_DIRECT for long
    for (const std::string& folder : folders)
        for (const bool direct : {true, false})
            for (const int count : {1, 2, 3, 4, 5, 8, 9}) {
                const std::string path = folder + "/glmd-layers-" + std::to_string(::getpid());
                const Layers layers(path, count, random, count == 4 ? 3000 : 40);  // 3000: several pieces each
                INFO(path << " direct " << direct << ", " << count << " layers");
                LayerStream stream(path, layers.ranges, direct);
                if (!direct) CHECK_FALSE(stream.direct());
                for (int pass = 0; pass < 4; ++pass) {
                    for (int i = 0; i < count; ++i) {
                        CHECK(layers.right(stream, i));
                        if (i + 1 < count) CHECK(layers.right(stream, i));  // a second use
                    }
                    if (pass % 2) stream.done(count - 1), stream.done(count - 1);
                }
                for (int i = 0; i < 60; ++i) {
                    CHECK(layers.right(stream, static_cast<int>(random() % count)));
                    if (random() % 4 == 0) stream.done(static_cast<int>(random() % count));
                }
                CHECK(stream.bytes_per_s() > 0);
                std::filesystem::remove(path);
            }
}

TEST_CASE("layer stream: a torn file is an error each time, until it is whole") {
    std::mt19937 random(2);
    const Scratch scratch;
    const Layers layers(scratch.file("layers"), 6, random);
    LayerStream stream(layers.path, layers.ranges);
    for (int i = 0; i < 6; ++i) CHECK(layers.right(stream, i));
    std::filesystem::resize_file(layers.path, layers.ranges[4].begin + page / 2);
    for (int i = 0; i < 4; ++i) CHECK(layers.right(stream, i));
    for (int again = 0; again < 2; ++again) {
        const std::string error = error_of([&] { stream.need(4); });
        CHECK(error.find("are torn: they end at byte") != std::string::npos);
    }
    layers.write();
    for (const int i : {4, 5, 0, 4}) CHECK(layers.right(stream, i));
    CHECK_FALSE(error_of([&] { LayerStream(layers.path, {{0, 100}}); }).empty());
    CHECK_FALSE(error_of([&] { LayerStream(scratch.file("nothing"), layers.ranges); }).empty());
}

TEST_CASE("layer stream: the speed of a disk is measured, and of nothing is 0") {
    const Scratch scratch;
    std::ofstream(scratch.file("some"), std::ios::binary) << std::string(1 << 20, 'x');
    CHECK(read_speed(scratch.file("some")) > 0);
    CHECK(read_speed(scratch.file("nothing")) == 0);
}
