#pragma once
// Reading the recorded outputs of upstream's code (GLMD_GOLDEN, see tests/data/golden/README.md) and running the same checkpoints.
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "engine/checkpoint/convert.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/loaded_model.h"

namespace glmd::golden {

namespace fs = std::filesystem;
namespace json = boost::json;

/// An upstream checkpoint and what was recorded with it; folders and files below GLMD_GOLDEN/family.
struct Source {
    std::string family, cases, model, prefix;
    std::string logits = "logits";  // the case's field
    std::string config = "";        // for checkpoints without one
    std::string tokenizer = "";     // folder, for those without one
};

/// A folder of its own, gone at the end.
struct Folder {
    fs::path path = fs::temp_directory_path() / ("glmd-golden-" + std::to_string(::getpid()));
    Folder() { fs::create_directories(path); }
    ~Folder() { fs::remove_all(path); }
};

inline json::value read_json(const fs::path& path) {
    std::ifstream f(path, std::ios::binary);
    REQUIRE(f);
    return json::parse(std::string{std::istreambuf_iterator<char>(f), {}});
}

inline std::vector<TokenId> ids_of(const json::value& v) {
    std::vector<TokenId> ids;
    for (const auto& x : v.as_array()) ids.push_back(static_cast<TokenId>(x.as_int64()));
    return ids;
}

inline std::vector<float> recorded(const std::vector<SourceTensor>& tensors, const std::string& key) {
    for (const SourceTensor& t : tensors)
        if (t.name == key) {
            std::vector<float> values(t.data.size() / sizeof(float));
            std::memcpy(values.data(), t.data.data(), t.data.size());
            return values;
        }
    FAIL("no recorded array " << key);
    return {};
}

inline EngineOptions options(const fs::path& folder, Precision precision, const std::string& isa) {
    EngineOptions o;
    o.precision = precision;
    o.max_sequences = 256;  // the longest prompt, which goes in whole
    o.prefill_rows = 1;
    o.kv_bytes = 1;
    o.cpu.isa = isa;
    o.cpu.threads = 1;
    o.cache_directory = folder / "cache";
    return o;
}

inline std::string converted(const Source& s, OutputType type, const Folder& folder) {
    const fs::path family = fs::path(std::getenv("GLMD_GOLDEN")) / s.family;
    ConvertOptions convert;
    convert.input = family / s.model;
    if (!s.prefix.empty()) convert.prefix = family / s.prefix;
    if (!s.tokenizer.empty()) convert.tokenizer = family / s.tokenizer;
    if (!s.config.empty()) convert.config = family / s.config;
    convert.output = folder.path / (s.family + ".gguf");
    convert.type = type;
    convert_checkpoint(convert);
    return convert.output;
}

inline bool golden_is_there() {
    if (std::getenv("GLMD_GOLDEN")) return true;
    std::cout << "skipped: GLMD_GOLDEN isn't set\n";
    return false;
}

}  // namespace glmd::golden
