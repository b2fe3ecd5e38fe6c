#pragma once
// Hashes of files and of the parts of a model file. BLAKE2b-256 inside our own files (three times as fast as SHA-256 here;
// `b2sum -l 256` computes it too), SHA-256 for the upstream files that people publish SHA-256 of.
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/error.h"

namespace glmd {

/// BLAKE2b-256 of bytes that come in pieces.
class Hash {
public:
    static constexpr std::size_t size = 32;
    Hash();
    void add(std::span<const std::byte> data);
    std::array<std::byte, size> finish();  // once

private:
    alignas(64) std::byte state_[512];
};

/// Called on the caller's thread with bytes done of all; may throw to stop.
using HashProgress = std::function<void(std::uint64_t done)>;

/// SHA-256 in hex of every file, by `threads` threads.
std::vector<std::string> sha256_files(const std::vector<std::string>& paths, int threads, const HashProgress& progress);

struct HashCheck {
    bool recorded = false;             // the file holds hashes
    std::size_t tensors = 0;           // checked
    bool header = true;                // as recorded
    std::vector<std::string> damaged;  // names of tensors whose data isn't what was written
    bool good() const { return header && damaged.empty(); }
};

/// Compares a model file with the hashes that its conversion recorded. ModelError when it isn't a GGUF file any more.
HashCheck check_hashes(const std::string& gguf_path, int threads, const HashProgress& progress);

}  // namespace glmd
