// The GGUF reader against files that lie. Every test writes its own small file, so none needs a model.
#include <catch2/catch.hpp>


#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/gguf_writer.h"
#include "tests/scratch.h"

using namespace glmd;

namespace {

std::string content(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

void put(const std::string& path, std::string_view bytes) {
    // Written over, not truncated first: some file systems flush to the disk after a truncation, 20,000 times here.
    if (std::filesystem::exists(path)) std::filesystem::resize_file(path, bytes.size());
    else std::ofstream(path, std::ios::binary).flush();
    std::ofstream out(path, std::ios::binary | std::ios::in);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

template <class T>
void add(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void add_text(std::string& out, std::string_view text) {
    add<std::uint64_t>(out, text.size());
    out += text;
}

std::string header(std::uint64_t tensors, std::uint64_t pairs, std::uint32_t version = 3) {
    std::string out = "GGUF";
    add(out, version);
    add(out, tensors);
    add(out, pairs);
    return out;
}

void add_tensor(std::string& out, std::string_view name, std::vector<std::uint64_t> dims, std::uint32_t type,
                std::uint64_t offset) {
    add_text(out, name);
    add<std::uint32_t>(out, static_cast<std::uint32_t>(dims.size()));
    for (auto d : dims) add(out, d);
    add(out, type);
    add(out, offset);
}

std::string with_data(std::string head, std::size_t bytes) {
    head.resize((head.size() + 31) / 32 * 32 + bytes);
    return head;
}

/// The sentence the reader refuses these bytes with.
std::string refusal(const Scratch& folder, const std::string& bytes) {
    put(folder.file("bad.gguf"), bytes);
    try {
        Gguf file(folder.file("bad.gguf"));
    } catch (const ModelError& error) {
        return error.what();
    }
    return "accepted";
}

void write_small(const std::string& path) {
    GgufWriter out(path);
    out.add_string("general.architecture", "chatglm");
    out.add_bool("yes", true);
    out.add_u32("u32", 7);
    out.add_u64("u64", std::uint64_t{1} << 63);
    out.add_f32("f32", 0.5F);
    const std::vector<std::string> words = {"a", "", "你好"};
    out.add_strings("words", words);
    const std::vector<std::int32_t> whole = {-1, 2};
    out.add_i32s("whole", whole);
    const std::vector<float> real = {0.25F, -2};
    out.add_f32s("real", real);
    const std::vector<std::byte> raw = {std::byte{1}, std::byte{255}};
    out.add_bytes("raw", raw);
    const std::vector<std::int64_t> vector = {3};
    const std::vector<std::int64_t> matrix = {2, 32};
    out.add_tensor("norm", DType::f32, vector);
    out.add_tensor("weight", DType::q4_0, matrix);
    out.write_header();
    const std::vector<float> norm = {1, 2, 3};
    out.append(std::as_bytes(std::span(norm)));
    std::vector<std::byte> weight(36);
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<std::byte>(i);
    out.append(std::span(weight).first(5));
    out.append(std::span(weight).subspan(5));
    out.finish();
}

}  // namespace

TEST_CASE("a GGUF file comes back as it was written", "[gguf]") {
    Scratch folder;
    write_small(folder.file("small.gguf"));
    Gguf file(folder.file("small.gguf"));
    CHECK(file.string("general.architecture") == "chatglm");
    CHECK(file.boolean("yes"));
    CHECK(file.integer("u32") == 7);
    CHECK(file.number("u32") == 7.0);
    CHECK_THROWS_AS(file.integer("u64"), ModelError);
    CHECK(file.number("f32") == 0.5);
    CHECK(file.strings("words") == Gguf::Strings{"a", "", "你好"});
    CHECK(file.numbers("whole") == std::vector<double>{-1, 2});
    CHECK(file.numbers("real") == std::vector<double>{0.25, -2});
    CHECK(file.numbers("raw") == std::vector<double>{1, 255});
    CHECK(file.bytes("raw").size() == 2);
    CHECK(file.integer("absent", 5) == 5);
    CHECK_THROWS_WITH(file.integer("absent"), Catch::Contains("\"absent\" is missing"));
    CHECK_THROWS_WITH(file.integer("f32"), Catch::Contains("\"f32\" should be an integer"));
    CHECK_THROWS_WITH(file.string("u32", "fallback"), Catch::Contains("should be a string"));
    REQUIRE(file.tensors().size() == 2);
    const auto& weight = file.tensor("weight");
    CHECK(weight.shape == std::vector<std::int64_t>{2, 32});
    CHECK(weight.rows() == 2);
    CHECK(weight.cols() == 32);
    REQUIRE(weight.data.size() == 36);
    CHECK(weight.data[35] == std::byte{35});
    float norm = 0;
    std::memcpy(&norm, file.tensor("norm").data.data() + 8, 4);
    CHECK(norm == 3);
    CHECK(file.find("nothing") == nullptr);
    CHECK_THROWS_WITH(file.tensor("nothing"), Catch::Contains("\"nothing\" is missing"));
}

TEST_CASE("an unfinished GGUF file leaves nothing behind", "[gguf]") {
    Scratch folder;
    {
        GgufWriter out(folder.file("half.gguf"));
        const std::vector<std::int64_t> shape = {4};
        out.add_tensor("t", DType::f32, shape);
        out.write_header();
        const std::vector<std::byte> some(5);
        out.append(some);
        CHECK_THROWS_AS(out.finish(), ModelError);
    }
    CHECK(std::filesystem::is_empty(std::filesystem::path(folder.file("x")).parent_path()));
}

TEST_CASE("files that lie are refused with a sentence", "[gguf]") {
    Scratch folder;
    auto says = [&](const std::string& bytes, const char* words) { CHECK_THAT(refusal(folder, bytes), Catch::Contains(words)); };

    says("", "is empty");
    says("PK\3\4 something else", "not a GGUF file");
    says(header(0, 0, 1), "version 1 is not supported");
    says(header(0, 0, 0x03000000), "big-endian");
    says(header(~0ULL, 0), "tensors, more than fit");
    says(header(0, ~0ULL), "metadata entries, more than fit");

    auto pair = [](std::string_view key, std::uint32_t type) {
        auto out = header(0, 1);
        add_text(out, key);
        add(out, type);
        return out;
    };
    auto bytes = pair("k", 99);
    says(bytes + "12345678", "unknown value type 99");
    bytes = pair("k", 7);
    says(bytes + std::string(1, '\2') + "pad", "neither 0 nor 1");
    bytes = pair("k", 8);
    add<std::uint64_t>(bytes, 1ULL << 62);
    says(bytes, "ends inside");
    bytes = pair("k", 9);
    add<std::uint32_t>(bytes, 9);
    add<std::uint64_t>(bytes, 0);
    says(bytes, "array of arrays");
    for (std::uint32_t type : {0U, 4U, 8U, 12U}) {
        bytes = pair("k", 9);
        add<std::uint32_t>(bytes, type);
        add<std::uint64_t>(bytes, 1ULL << 61);
        says(bytes, "elements, more than fit");
    }
    bytes = header(0, 2);
    for (int i = 0; i < 2; ++i) {
        add_text(bytes, "twice");
        add<std::uint32_t>(bytes, 7);
        bytes += '\1';
    }
    says(bytes, "\"twice\" appears twice");
    for (std::uint32_t alignment : {0U, 4U, 24U, 0x80000000U}) {
        bytes = pair("general.alignment", 4);
        add(bytes, alignment);
        says(bytes, "general.alignment");
    }

    auto one = [](std::vector<std::uint64_t> dims, std::uint32_t type, std::uint64_t offset, std::size_t data = 128) {
        auto out = header(1, 0);
        add_tensor(out, "t", std::move(dims), type, offset);
        return with_data(out, data);
    };
    CHECK(refusal(folder, one({32}, 0, 0)) == "accepted");
    says(one({}, 0, 0), "0 dimensions");
    says(one({1, 1, 1, 1, 1}, 0, 0), "5 dimensions");
    says(one({32, 0}, 0, 0), "size 0");
    says(one({1ULL << 40, 1ULL << 40}, 0, 0), "impossible dimensions");
    says(one({1ULL << 63}, 0, 0), "impossible dimensions");
    says(one({1ULL << 62}, 0, 0), "impossible dimensions");
    says(one({32}, 10, 0), "GGML type Q2_K");
    says(one({32}, 5000, 0), "GGML type number 5000");
    says(one({33}, 2, 0), "not a multiple of the 32");
    says(one({1}, 0, 4), "not a multiple of the alignment");
    says(one({33}, 0, 0), "beyond the end of the file");
    says(one({1}, 0, 128), "beyond the end of the file");
    says(one({1}, 0, ~0ULL - 31), "beyond the end of the file");

    bytes = header(2, 0);
    add_tensor(bytes, "a", {16}, 0, 0);
    add_tensor(bytes, "b", {8}, 0, 32);
    says(with_data(bytes, 128), "\"a\" and \"b\" overlap");
    bytes = header(2, 0);
    add_tensor(bytes, "a", {8}, 0, 0);
    add_tensor(bytes, "a", {8}, 0, 32);
    says(with_data(bytes, 128), "\"a\" appears twice");
}

TEST_CASE("a path that is no model file is refused", "[gguf]") {
    Scratch folder;
    CHECK_THROWS_WITH(Gguf(folder.file("absent")), Catch::Contains("cannot open"));
    CHECK_THROWS_WITH(Gguf("/"), Catch::Contains("regular file"));
}

TEST_CASE("a file cut anywhere is refused", "[gguf]") {
    Scratch folder;
    write_small(folder.file("small.gguf"));
    const auto whole = content(folder.file("small.gguf"));
    for (std::size_t size = 0; size < whole.size(); ++size) {
        // Only the padding behind the last tensor may be missing.
        auto sentence = refusal(folder, whole.substr(0, size));
        if (sentence == "accepted") CHECK(whole.size() - size < 32);
    }
}

TEST_CASE("flipped bytes never do more than raise ModelError", "[gguf]") {
    Scratch folder;
    write_small(folder.file("small.gguf"));
    const auto whole = content(folder.file("small.gguf"));
    std::mt19937 random(20250101);
    int accepted = 0;
    for (int round = 0; round < 20000; ++round) {
        auto bytes = whole;
        for (auto flips = 1 + random() % 4; flips > 0; --flips) bytes[random() % bytes.size()] ^= static_cast<char>(1 + random() % 255);
        put(folder.file("bad.gguf"), bytes);
        try {
            Gguf file(folder.file("bad.gguf"));
            ++accepted;
            unsigned sum = 0;
            for (const auto& tensor : file.tensors())
                for (auto byte : tensor.data) sum += std::to_integer<unsigned>(byte);
            CHECK(sum < 0xffffffffU);
        } catch (const ModelError&) {
        }
    }
    CHECK(accepted > 0);
    CHECK(accepted < 20000);
}
