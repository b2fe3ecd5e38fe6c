// Files are damaged on purpose; what must never happen is that such a model talks.

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "engine/checkpoint/convert.h"
#include "engine/checkpoint/hashes.h"
#include "engine/loaded_model.h"
#include "engine/self_test.h"
#include "tests/engine/error_of.h"
#include "tests/scratch.h"

using namespace glmd;
namespace fs = std::filesystem;

namespace {

std::string golden() {
    const char* set = std::getenv("GLMD_GOLDEN");
    if (!set) std::cout << "skipped: GLMD_GOLDEN isn't set\n";
    return set ? std::string(set) + "/" : std::string();
}

ConvertResult convert(const std::string& input, const fs::path& output, OutputType type, const std::string& config = {}, bool self_test = true) {
    ConvertOptions o;
    o.input = input;
    o.config = config;
    o.output = output;
    o.type = type;
    o.self_test = self_test;
    return convert_checkpoint(o);
}

EngineOptions options(const Scratch& s, Precision precision = Precision::exact, const std::string& isa = {}) {
    EngineOptions o;
    o.precision = precision;
    o.max_sequences = 1;
    o.prefill_rows = 1;
    o.kv_bytes = 1;
    o.cpu.isa = isa;
    o.cpu.threads = 1;
    o.cache_directory = s.path / "cache";
    return o;
}

void overwrite(const fs::path& path, std::uint64_t offset, const std::string& bytes) {
    std::fstream f(path, std::ios::binary | std::ios::in | std::ios::out);
    f.seekp(static_cast<std::streamoff>(offset));
    f.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    REQUIRE(f);
}

std::uint64_t offset_of(const Gguf& file, std::span<const std::byte> part) { return static_cast<std::uint64_t>(part.data() - file.contents().data()); }

fs::path packed(const Scratch& s) {
    for (const auto& entry : fs::directory_iterator(s.path / "cache"))
        if (entry.path().extension() == ".pack") return entry.path();
    FAIL("nothing is packed");
    return {};
}

}  // namespace

TEST_CASE("self-test: every family passes on every instruction set and in both precisions") {
    const auto g = golden();
    if (g.empty()) return;
    for (const std::string name : {"chatglm1/fp16", "chatglm2/fp16", "chatglm3/fp16", "glm4_remote/bf16", "glm4_hf/model", "glm_edge_hf/model",
                                   "glm4_0414_hf/model", "glm/hf", "glm130b/sat_mp1"}) {
        const Scratch s;
        const auto config = name.starts_with("glm130b") ? g + "glm130b/model_config.json" : "";
        for (const OutputType type : {OutputType::f16, OutputType::int4}) {
            INFO(name << " type " << int(type));
            const auto result = convert(g + name, s.path / "m.gguf", type, config);
            CHECK(result.no_self_test == "");
            CHECK(std::distance(fs::directory_iterator(s.path), {}) == 1 + fs::exists(s.path / "cache"));  // no packed copy is left
            double worst[3] = {0, 0, 0};
            for (const std::string& isa : cpu_instruction_sets())
                for (const Precision precision : {Precision::exact, Precision::fine, Precision::fast}) {
                    EngineOptions o = options(s, precision, isa);
                    o.self_test = false;
                    LoadedModel model = load_model(s.path / "m.gguf", o);
                    const SelfTest t = run_self_test(model);
                    CHECK(t.recorded);
                    double& w = worst[static_cast<int>(precision)];
                    w = std::max(w, t.difference);
                }
            std::cout << "self-test " << name << (type == OutputType::f16 ? " f16" : " int4") << ": exact " << worst[int(Precision::exact)] << ", fine "
                      << worst[int(Precision::fine)] << ", fast " << worst[int(Precision::fast)] << " standard deviations off\n";
            CHECK(worst[int(Precision::exact)] < 0.002);  // a tenth of what is allowed
            CHECK(worst[int(Precision::fine)] < 0.005);
            CHECK(worst[int(Precision::fast)] < 0.125);  // a quarter
        }
    }
}

TEST_CASE("self-test: damaged models don't load, a damaged cache is made again") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    const fs::path file = s.path / "m.gguf";
    convert(g + "chatglm2/fp16", file, OutputType::int4);
    load_model(file, options(s));

    SECTION("packed weights full of zeros") {
        const auto size = fs::file_size(packed(s));
        overwrite(packed(s), 8192, std::string(size / 2, '\0'));
        CHECK(error_of([&] { load_model(file, options(s)); }) == "");
        CHECK(error_of([&] { load_model(file, options(s)); }) == "");
    }
    SECTION("a cut packed file") {
        fs::resize_file(packed(s), fs::file_size(packed(s)) / 2);
        CHECK(error_of([&] { load_model(file, options(s)); }) == "");
    }
    SECTION("a tensor of zeros in the model file") {
        std::uint64_t at, size;
        {
            const Gguf f(file);
            const auto& t = f.tensor("blk.1.attn_qkv.weight");
            at = offset_of(f, t.data), size = t.data.size();
        }
        overwrite(file, at, std::string(size, '\0'));
        for (const Precision precision : {Precision::exact, Precision::fast})
            CHECK(error_of([&] { load_model(file, options(s, precision)); }).starts_with("the model fails its self-test: its logits are "));
        const HashCheck check = check_hashes(file, 2, {});
        CHECK(check.recorded);
        CHECK(check.header);
        CHECK(check.damaged == std::vector<std::string>{"blk.1.attn_qkv.weight"});
    }
    SECTION("scales that aren't numbers") {
        std::uint64_t at;
        {
            const Gguf f(file);
            at = offset_of(f, f.tensor("output_norm.weight").data);
        }
        overwrite(file, at, std::string(4, '\xff'));
        CHECK(error_of([&] { load_model(file, options(s)); }) == "the model fails its self-test: it answers with numbers that aren't finite");
    }
    SECTION("another fingerprint") {
        const Gguf f(file);
        const auto& values = f.values().at("glmd.selftest.logits");
        REQUIRE(std::get<std::vector<double>>(values).size() == fingerprint_ids * fingerprint_probes);
        std::ifstream in(file, std::ios::binary);
        std::string bytes{std::istreambuf_iterator<char>(in), {}};
        const auto key = bytes.find("glmd.selftest.logits");
        overwrite(file, key + 20 + 4 + 4 + 8, std::string(fingerprint_ids * fingerprint_probes * 4, '\0'));
        CHECK(error_of([&] { load_model(file, options(s)); }).starts_with("the model fails its self-test: "));
        CHECK_FALSE(check_hashes(file, 2, {}).header);
        EngineOptions o = options(s);
        o.self_test = false;
        CHECK(error_of([&] { load_model(file, o); }) == "");
    }
}

TEST_CASE("self-test: files without a fingerprint get one when they are packed") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    const fs::path file = s.path / "m.gguf";
    const auto result = convert(g + "glm4_hf/model", file, OutputType::f16, {}, false);
    CHECK(result.no_self_test == "it wasn't asked for");
    CHECK_FALSE(recorded_fingerprint(Gguf(file)));
    CHECK(check_hashes(file, 1, {}).good());
    EngineOptions o = options(s);
    o.self_test = false;
    LoadedModel model = load_model(file, o);
    const SelfTest t = run_self_test(model);
    CHECK(t.recorded);
    CHECK(t.difference < 1e-4);
}

TEST_CASE("hashes: a file as written is good, whatever its type, and stopping is possible") {
    const auto g = golden();
    if (g.empty()) return;
    const Scratch s;
    const fs::path file = s.path / "m.gguf";
    for (const OutputType type : {OutputType::f32, OutputType::f16, OutputType::int8, OutputType::int4}) {
        convert(g + "glm/hf", file, type, {}, type == OutputType::int4);
        const HashCheck check = check_hashes(file, 2, {});
        CHECK(check.recorded);
        CHECK(check.good());
        CHECK(check.tensors == Gguf(file).tensors().size());
    }
    CHECK_THROWS_AS(check_hashes(file, 2, [](std::uint64_t) { throw ModelError("stopped"); }), ModelError);
}
