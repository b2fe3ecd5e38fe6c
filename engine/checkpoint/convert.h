#pragma once
// Upstream checkpoints to one GGUF file. Tensor by tensor, in bounded memory; the output appears under its name when whole.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/error.h"

namespace glmd {

/// as_source keeps upstream's types. An upstream int4 or int8 checkpoint asked for as int4 or int8 is mapped exactly, never
/// requantized to the same width; what it left in fp16 (the embedding) stays fp16.
enum class OutputType : std::uint8_t { as_source, f32, f16, int8, int4 };

struct ConvertOptions {
    std::string input;      // a folder, or one file of weights
    std::string output;
    OutputType type = OutputType::as_source;
    std::string config;     // a configuration for checkpoints that have none
    std::string tokenizer;  // a folder with tokenizer files, when `input` has none
    std::string prefix;     // a folder with a P-tuning prefix to add
    std::string chat_template;  // overrides the detected one
    bool record_sources = true;  // SHA-256 of every weight file
    int threads = 0;             // 0: as many as there are cores
    /// Packs the new file beside its destination, runs it once and records its answer for the self-test at load
    /// (engine/self_test.h). Takes the program glmd-pack, and disk and memory for the packed weights.
    bool self_test = false;
};

struct ConvertResult {
    std::string architecture;
    std::int64_t parameters = 0, tensors = 0;
    std::uint64_t bytes = 0;
    bool tokenizer = false;
    std::string no_self_test;  // why no fingerprint was recorded; empty when one was
    std::vector<std::pair<std::string, std::string>> sources;  // file, SHA-256
};

/// Bytes read (for hashing, converting and packing) and bytes to read in all. May throw to stop the conversion.
using ConvertProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

ConvertResult convert_checkpoint(const ConvertOptions& options, const ConvertProgress& progress = {});  // ModelError

}  // namespace glmd
