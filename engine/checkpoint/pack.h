#pragma once
// Packed weights: a checkpoint turned, once, into what one backend's kernels read, kept in the cache directory and
// mapped ever after. A packed model is two files: NAME.meta.gguf (the checked metadata, tokenizer included, no tensors)
// and NAME.pack (the matrices). The daemon reads only these; the foreign file is parsed and packed by the child process
// `glmd-pack`, which can reach nothing but the model file and the cache directory (Landlock, where the kernel has it).
//
// The child also looks whether the model will fit into memory, before it writes anything, and adds the fingerprint that the
// self-test at load compares with (engine/self_test.h) where the file has none.
//
//   NAME.pack: header (4096 bytes: magic, version, sizes, hash of the directory) | matrices, each at a multiple of 4096 |
//              directory (one record a matrix)
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/checkpoint/gguf.h"
#include "kernels/backend.h"

namespace glmd {

/// One packed matrix or vector and the tensors it is made of, stacked by rows (fused projections).
struct PackRecipe {
    std::string name;
    std::vector<std::string> sources;
    bool vector = false;  // kept as float
};

/// A packed model's weights, mapped. Parts of a fused projection with unlike types stay apart: "name", or "name.0", "name.1" …
class PackedFile {
public:
    explicit PackedFile(const std::string& path);  // ModelError when torn or not ours
    ~PackedFile();
    PackedFile(const PackedFile&) = delete;
    PackedFile& operator=(const PackedFile&) = delete;

    bool has(const std::string& name) const { return entries_.count(name) != 0; }
    /// The parts of a (perhaps fused) projection with `rows` outputs in all and `cols` inputs; ModelError otherwise.
    std::vector<Matrix> matrices(const std::string& name, std::int64_t rows, std::int64_t cols) const;
    Vector vector(const std::string& name, std::int64_t size) const;
    std::int64_t rows(const std::string& name) const;  // of a matrix kept in one part; ModelError when absent
    /// Calls f(name, matrix, whether it is a vector) for all there is.
    template <class F>
    void each(const F& f) const {
        for (const auto& [name, entry] : entries_) f(name, entry.matrix, entry.vector);
    }
    std::size_t bytes() const { return bytes_; }
    /// Says that the weights won't be needed soon: they leave this process's memory, not the page cache.
    void release() const;

private:
    struct Entry {
        bool vector;
        Matrix matrix;
    };
    std::map<std::string, Entry> entries_;
    const std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
};

struct PackedPaths {
    std::string metadata, weights;
};

/// Where a model's packed files are in the cache: the name holds the source's path, size, time and the backend's pack id.
PackedPaths packed_paths(const std::string& gguf_path, const std::string& cache_directory, const Backend& backend);

/// Bytes of a packed file that holds pieces of these sizes.
std::size_t packed_file_bytes(std::span<const std::size_t> pieces);
/// Bytes of the packed file that this model would become.
std::size_t packed_file_bytes(const Gguf& file, const Backend& backend);

/// What the model must fit into; see MemoryRequest. memory 0: no bound.
struct PackLimits {
    std::size_t memory = 0;
    int context = 0;
    std::optional<KvType> kv;
    int prefill_rows = 1, max_sequences = 1;
};

/// Called with bytes of source done and in all. May throw to stop.
using PackProgress = std::function<void(std::size_t done, std::size_t total)>;

/// Packs in this process. The result appears under its final name only when whole. ModelError, also for a full disk.
void pack_model(const std::string& gguf_path, const PackedPaths& paths, Backend& backend, const PackLimits& limits,
                const PackProgress& progress);

/// The program that packs, wherever it is installed; ModelError when it isn't.
std::string find_packer();

/// Packs in a child process that is locked out of everything else. The child's error is thrown as ModelError.
void pack_model_in_child(const std::string& gguf_path, const PackedPaths& paths, const std::string& isa,
                         const PackLimits& limits, const PackProgress& progress);

/// The child's main: `glmd-pack MODEL METADATA WEIGHTS ISA MEMORY CONTEXT KV_TYPE PREFILL_ROWS MAX_SEQUENCES`; progress on stdout, the error's sentence on stderr.
int pack_main(int argc, char** argv);

}  // namespace glmd
