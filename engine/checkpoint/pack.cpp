// The packed file's writer (which runs in the child), its reader (which runs in the daemon), and the child itself.
#include "engine/checkpoint/pack.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <poll.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <climits>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "engine/available_memory.h"
#include "engine/checkpoint/gguf_writer.h"
#include "engine/checkpoint/kept_pack.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/memory_plan.h"
#include "engine/models/model.h"
#include "engine/self_test.h"

extern char** environ;

namespace glmd {
namespace {

namespace fs = std::filesystem;

constexpr char magic[8] = {'G', 'L', 'M', 'D', 'P', 'A', 'C', 'K'};
constexpr std::uint32_t pack_version = 2;
constexpr std::size_t page = 4096;

struct Header {
    char magic[8];
    std::uint32_t version;
    std::uint32_t entries;
    std::uint64_t directory_offset, directory_bytes, directory_hash, file_bytes;
};

struct Record {  // followed by nothing: names are cut at 119 characters by the writer's check
    char name[120];
    std::uint8_t vector, format, zero[6];
    std::int64_t rows, cols;
    std::uint64_t offset, bytes;
};

std::uint64_t fnv1a(const void* data, std::size_t size, std::uint64_t h = 1469598103934665603ull) {
    for (std::size_t i = 0; i < size; ++i) h = (h ^ static_cast<const unsigned char*>(data)[i]) * 1099511628211ull;
    return h;
}

std::size_t in_pages(std::size_t bytes) { return (bytes + page - 1) / page * page; }

/// The N of "blk.N.…"; -1 for what belongs to no layer.
int layer_of(const std::string& name) { return name.starts_with("blk.") ? std::atoi(name.c_str() + 4) : -1; }

std::string errno_sentence(const std::string& what) {
    const int e = errno;
    if (e == ENOSPC) return what + ": the disk is full";
    return what + ": " + std::strerror(e);
}

/// A file that appears under its final name only when whole. One process at a time writes it: a second one waits, so that
/// what a crash left behind is overwritten and never more than one copy lies in the cache.
class OutputFile {
public:
    /// While another process writes, others(bytes) is told how far that is; it grows with every sign of life.
    OutputFile(const std::string& final_path, const std::function<void(std::size_t)>& others) : final_(final_path), temporary_(final_path + ".part") {
        for (;;) {
            fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
            if (fd_ < 0) throw ModelError(errno_sentence("cannot write the packed weights to " + temporary_));
            struct stat mine = state_of(fd_), named {};
            std::pair<time_t, long> last;
            for (std::size_t touched = 0; ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && (errno == EWOULDBLOCK || errno == EINTR); ::usleep(50000)) {
                waited_ = true;
                const off_t before = std::exchange(mine, state_of(fd_)).st_size;
                const std::pair now(mine.st_mtim.tv_sec, mine.st_mtim.tv_nsec);
                if (std::exchange(last, now) == now) continue;
                touched += mine.st_size == before;
                others(static_cast<std::size_t>(mine.st_size) + touched);
            }
            mine = state_of(fd_);
            if (::stat(temporary_.c_str(), &named) == 0 && mine.st_ino == named.st_ino && mine.st_dev == named.st_dev) break;
            ::close(fd_);  // the one before us finished or gave up while we waited: this is no longer the temporary file
        }
        if (::ftruncate(fd_, 0) != 0) {
            const std::string sentence = errno_sentence("cannot write the packed weights to " + temporary_);
            ::close(fd_);
            throw ModelError(sentence);
        }
    }
    ~OutputFile() {
        if (fd_ >= 0) {
            ::unlink(temporary_.c_str());  // before the lock goes
            ::close(fd_);
        }
    }
    void write_at(std::uint64_t offset, const void* data, std::size_t size) {
        const char* p = static_cast<const char*>(data);
        while (size > 0) {
            const ssize_t n = ::pwrite(fd_, p, size, static_cast<off_t>(offset));
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) throw ModelError(errno_sentence("cannot write the packed weights"));
            p += n, offset += n, size -= n, unsynced_ += n;
        }
        // As it goes, so that the end isn't a minute without a sign of life.
        if (unsynced_ < most_unsynced) return;
        unsynced_ = 0;
        if (::fdatasync(fd_) != 0) throw ModelError(errno_sentence("cannot write the packed weights"));
    }
    const std::string& temporary_path() const { return temporary_; }
    /// A sign of life for those who wait, where nothing is written.
    void touch() { ::futimens(fd_, nullptr); }
    /// Somebody else has just written the whole file.
    bool there_already() const { return waited_ && ::access(final_.c_str(), R_OK) == 0; }
    void finish() {
        if (::fsync(fd_) != 0 || ::rename(temporary_.c_str(), final_.c_str()) != 0)
            throw ModelError(errno_sentence("cannot write the packed weights"));
        ::close(fd_);
        fd_ = -1;
    }

private:
    static struct stat state_of(int fd) {
        struct stat state {};
        ::fstat(fd, &state);
        return state;
    }
    static constexpr std::size_t most_unsynced = std::size_t(256) << 20;
    std::string final_, temporary_;
    int fd_ = -1;
    bool waited_ = false;
    std::size_t unsynced_ = 0;
};

/// The tensors of one recipe that can share a matrix: all of one type and width, or each on its own.
std::vector<std::vector<const GgufTensor*>> group(const Gguf& file, const PackRecipe& recipe) {
    std::vector<const GgufTensor*> sources;
    bool alike = true;
    for (const std::string& name : recipe.sources) {
        sources.push_back(&file.tensor(name));
        alike = alike && sources.back()->type == sources[0]->type;
        if (!recipe.vector && sources.back()->cols() != sources[0]->cols())
            throw ModelError("tensor " + name + " has another width than " + recipe.sources[0]);
    }
    if (alike || recipe.vector) return {sources};
    std::vector<std::vector<const GgufTensor*>> apart;
    for (const GgufTensor* t : sources) apart.push_back({t});
    return apart;
}

std::vector<std::byte> pack_vector(const std::vector<const GgufTensor*>& sources) {
    std::vector<std::byte> out;
    for (const GgufTensor* t : sources) {
        std::vector<float> row(t->elements());
        dequantize_row(t->type, t->data.data(), row);
        const std::byte* p = reinterpret_cast<const std::byte*>(row.data());
        out.insert(out.end(), p, p + row.size() * sizeof(float));
    }
    return out;
}

std::vector<std::byte> pack_matrix(const WeightLayout& layout, const std::vector<const GgufTensor*>& sources, std::int64_t rows) {
    const DType type = sources[0]->type;
    const std::int64_t cols = sources[0]->cols();
    std::vector<std::byte> out(layout.packed_bytes(layout.pack_format(type), rows, cols));
    if (sources.size() == 1) {
        layout.pack(type, sources[0]->data.data(), rows, cols, out);
        return out;
    }
    std::vector<std::byte> stacked;
    for (const GgufTensor* t : sources) stacked.insert(stacked.end(), t->data.begin(), t->data.end());
    layout.pack(type, stacked.data(), rows, cols, out);
    return out;
}

void write_metadata(const Gguf& file, const std::string& path, const Fingerprint* fingerprint) {
    GgufWriter writer(path);
    std::int64_t parameters = 0;
    std::map<std::string, int> types;
    for (const GgufTensor& t : file.tensors()) {
        parameters += t.elements();
        if (t.shape.size() > 1) ++types[traits(t.type).name];
    }
    std::string common;
    for (const auto& [name, count] : types)
        if (common.empty() || count > types[common]) common = name;
    writer.add_u64("glmd.source.parameters", parameters);
    writer.add_string("glmd.source.type", common);
    copy_metadata(writer, file, [](std::string_view key) {
        return key == "glmd.source.parameters" || key == "glmd.source.type" || key.starts_with("glmd.selftest.") || key.starts_with("glmd.hash.");
    });
    if (fingerprint) add_fingerprint(writer, fingerprint);
    writer.write_header();
    writer.finish();
}

/// Calls each(name, the group's tensors, rows, cols) for every matrix and vector of the packed file.
template <class Each>
void each_group(const Gguf& file, const std::vector<PackRecipe>& recipes, const Each& each) {
    for (const PackRecipe& recipe : recipes) {
        const auto groups = group(file, recipe);
        for (std::size_t g = 0; g < groups.size(); ++g) {
            std::int64_t rows = recipe.vector ? 1 : 0, cols = recipe.vector ? 0 : groups[g][0]->cols();
            for (const GgufTensor* t : groups[g])
                if (recipe.vector) cols += t->elements();
                else rows += t->rows();
            each(recipe, groups.size() == 1 ? recipe.name : recipe.name + "." + std::to_string(g), groups[g], rows, cols);
        }
    }
}

const ModelFamily& family_of(const Gguf& file) {
    const std::string architecture = file.string("general.architecture");
    const ModelFamily* family = find_family(architecture);
    if (!family)
        throw ModelError("the model's architecture is \"" + architecture + "\"; glmd runs " + known_architectures());
    return *family;
}

}  // namespace

PackedSize packed_size(std::span<const PackedPiece> pieces) {
    PackedSize size;
    size.file = page;
    std::map<int, std::size_t> layers;
    for (const PackedPiece& p : pieces) {
        const std::size_t bytes = in_pages(p.bytes);
        size.file += bytes + sizeof(Record);
        if (p.layer >= 0) size.layers += bytes, layers[p.layer] += bytes;
    }
    for (const auto& [layer, bytes] : layers) size.largest = std::max(size.largest, bytes);
    return size;
}

PackedSize packed_size(const Gguf& file, const WeightLayout& layout) {
    std::vector<PackedPiece> pieces;
    each_group(file, family_of(file).recipes(file), [&](const PackRecipe& recipe, const std::string& name, const auto& tensors, std::int64_t rows, std::int64_t cols) {
        pieces.push_back({layer_of(name), recipe.vector ? std::size_t(cols) * sizeof(float)
                                                        : layout.packed_bytes(layout.pack_format(tensors[0]->type), rows, cols)});
    });
    return packed_size(pieces);
}

std::string kept_pack_path(const std::string& gguf_path, const WeightLayout& layout) {
    const std::string id = layout.pack_id() + '\0' + std::to_string(pack_version);
    char hex[24];
    std::snprintf(hex, sizeof hex, "%016" PRIx64, fnv1a(id.data(), id.size()));
    return fs::path(gguf_path).replace_extension("." + std::string(hex) + ".pack");
}

PackedPaths packed_paths(const std::string& gguf_path, const std::string& cache_directory, const WeightLayout& layout) {
    std::error_code error;
    const fs::path source = fs::canonical(gguf_path, error);
    if (error) throw ModelError("cannot open the model " + gguf_path + ": " + error.message());
    struct stat st {};
    if (::stat(source.c_str(), &st) != 0) throw ModelError(errno_sentence("cannot open the model " + gguf_path));
    if (const std::string kept = kept_pack_path(source, layout); fs::exists(kept, error)) return {source, kept};
    const std::string identity = source.string() + '\0' + std::to_string(st.st_size) + '\0' +
                                 std::to_string(st.st_mtim.tv_sec) + '.' + std::to_string(st.st_mtim.tv_nsec) + '\0' +
                                 layout.pack_id() + '\0' + std::to_string(pack_version);
    char hex[24];
    std::snprintf(hex, sizeof hex, "%016" PRIx64, fnv1a(identity.data(), identity.size()));
    const std::string stem = cache_directory + "/" + source.stem().string().substr(0, 80) + "-" + hex;
    return {stem + ".meta.gguf", stem + ".pack"};
}

void pack_model(const std::string& gguf_path, const PackedPaths& paths, const WeightLayout& layout, Backend* backend, const PackLimits& limits,
                const PackProgress& progress) {
    const Gguf file(gguf_path);
    if (file.tensors().empty()) throw ModelError(gguf_path + " was imported packed, for another processor or GPU: import the original file again");
    const ModelFamily& family = family_of(file);
    const ModelConfig config = family.config(file);  // throws when the hyper-parameters are nonsense
    const std::vector<PackRecipe> recipes = family.recipes(file);
    const PackedSize size = packed_size(file, layout);
    if (limits.memory > 0) {
        const MemoryRequest request{limits.context, limits.kv, limits.prefill_rows, limits.max_sequences};
        require_memory(plan_memory(shape_of(file), size, request, limits.weights, limits.memory), limits.memory);
    }

    std::size_t total = 0, done = 0;
    for (const PackRecipe& r : recipes)
        for (const std::string& s : r.sources) total += file.tensor(s).data.size();
    auto fingerprint = recorded_fingerprint(file);
    if (!fingerprint && backend) total += static_cast<std::size_t>(config.layers);  // each counts like a byte

    OutputFile out(paths.weights, [&](std::size_t written) {
        if (progress) progress(written, size.file + static_cast<std::size_t>(config.layers));
    });
    if (out.there_already()) return;
    std::vector<Record> directory;
    std::uint64_t offset = page;
    each_group(file, recipes, [&](const PackRecipe& recipe, const std::string& name, const auto& tensors, std::int64_t rows, std::int64_t cols) {
        Record r{};
        if (name.size() >= sizeof r.name) throw ModelError("a tensor's name is too long: " + name);
        std::memcpy(r.name, name.c_str(), name.size());
        std::vector<std::byte> bytes;
        r.vector = recipe.vector;
        r.rows = rows;
        r.cols = cols;
        if (recipe.vector) {
            bytes = pack_vector(tensors);
        } else {
            r.format = static_cast<std::uint8_t>(layout.pack_format(tensors[0]->type));
            bytes = pack_matrix(layout, tensors, rows);
        }
        r.offset = offset;
        r.bytes = bytes.size();
        out.write_at(offset, bytes.data(), bytes.size());
        offset += in_pages(bytes.size());
        directory.push_back(r);
        for (const GgufTensor* t : tensors) {
            done += t->data.size();
            release_pages(t->data);
        }
        if (progress) progress(done, total);
    });
    Header h{};
    std::memcpy(h.magic, magic, sizeof magic);
    h.version = pack_version;
    h.entries = static_cast<std::uint32_t>(directory.size());
    h.directory_offset = offset;
    h.directory_bytes = directory.size() * sizeof(Record);
    h.directory_hash = fnv1a(directory.data(), h.directory_bytes);
    h.file_bytes = offset + h.directory_bytes;
    out.write_at(offset, directory.data(), h.directory_bytes);
    out.write_at(0, &h, sizeof h);

    const std::size_t available = available_memory();
    if (!fingerprint && backend) {
        PackedFile packed(out.temporary_path());
        if (available > 0 && size.file >= available) packed.stream();
        // Layer by layer, as the peak of memory is promised.
        fingerprint = make_fingerprint(*backend, file, packed, [&] {
            out.touch();
            if (progress && done < total) progress(++done, total);
        });
    }
    write_metadata(file, paths.metadata, fingerprint ? &*fingerprint : nullptr);
    out.finish();  // last: the weights' presence says that both files are whole
}

PackedFile::PackedFile(const std::string& path) : path_(path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw ModelError(errno_sentence("cannot open the packed weights " + path));
    struct stat st {};
    ::fstat(fd, &st);
    bytes_ = static_cast<std::size_t>(st.st_size);
    auto torn = [&]() { return ModelError("the packed weights " + path + " are torn; delete the file, it is made again"); };
    if (bytes_ < page) {
        ::close(fd);
        throw torn();
    }
    // 2 MB alignment, so that kernels which give huge pages to mapped files can (docs: engine/checkpoint/pack.h).
    constexpr std::size_t huge = std::size_t(2) << 20;
    char* area = static_cast<char*>(::mmap(nullptr, bytes_ + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (area != MAP_FAILED) {
        char* aligned = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(area) + huge - 1) / huge * huge);
        void* p = ::mmap(aligned, bytes_, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
        if (p != MAP_FAILED) {
            data_ = static_cast<const std::byte*>(p);
            ::madvise(p, bytes_, MADV_HUGEPAGE);
        }
    }
    ::close(fd);
    if (!data_) throw ModelError("cannot map the packed weights " + path);

    Header h;
    std::memcpy(&h, data_, sizeof h);
    if (std::memcmp(h.magic, magic, sizeof magic) != 0 || h.version != pack_version || h.file_bytes != bytes_ ||
        h.directory_offset > bytes_ || h.directory_bytes != h.entries * sizeof(Record) ||
        h.directory_bytes > bytes_ - h.directory_offset ||
        h.directory_hash != fnv1a(data_ + h.directory_offset, h.directory_bytes)) {
        ::munmap(const_cast<std::byte*>(data_), bytes_);
        throw torn();
    }
    bool whole = true;
    for (std::uint32_t i = 0; i < h.entries; ++i) {
        Record r;
        std::memcpy(&r, data_ + h.directory_offset + i * sizeof r, sizeof r);
        whole = whole && r.offset % page == 0 && r.offset <= h.directory_offset && r.bytes <= h.directory_offset - r.offset && r.rows > 0 &&
                r.cols > 0 && r.format <= static_cast<std::uint8_t>(PackFormat::q8m) && r.name[sizeof r.name - 1] == 0;
        if (!whole) break;
        entries_[r.name] = {r.vector != 0, {static_cast<PackFormat>(r.format), r.rows, r.cols, data_ + r.offset, r.bytes}};
        // Layers come one after the other, and nothing else between.
        const int layer = layer_of(r.name), last = static_cast<int>(layers_.size()) - 1;
        if (layer == last + 1) layers_.push_back({r.offset, 0});
        else whole = layer == last;
        if (layer >= 0) layers_.back().end = r.offset + in_pages(r.bytes);
    }
    if (!whole) {
        ::munmap(const_cast<std::byte*>(data_), bytes_);
        throw torn();
    }
}

PackedFile::PackedFile(std::map<std::string, Entry> entries, std::vector<std::unique_ptr<Buffer>> memory)
    : entries_(std::move(entries)), on_device_(std::move(memory)) {
    for (const auto& [name, entry] : entries_) bytes_ += entry.matrix.bytes;
}

PackedSize PackedFile::size() const {
    PackedSize size{bytes_};
    for (const ByteRange& r : layers_) size.layers += r.size(), size.largest = std::max(size.largest, r.size());
    return size;
}

void PackedFile::stream() {
    stream_ = std::make_unique<LayerStream>(path_, layers_);
    for (auto& [name, entry] : entries_)
        if (const int layer = layer_of(name); layer >= 0)
            entry.matrix.data = stream_->place(layer) + (entry.matrix.data - data_ - layers_[layer].begin);
}

void PackedFile::preload() const {
    const std::size_t mapped = stream_ ? layers_.front().begin : bytes_;
    ::madvise(const_cast<std::byte*>(data_), mapped, MADV_WILLNEED);
}

void PackedFile::upload(Backend& backend, const std::function<void(std::size_t, std::size_t)>& progress) {
    constexpr std::size_t slab = std::size_t(256) << 20;  // larger allocations fail on Jetsons whose memory is in pieces
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw ModelError(errno_sentence("cannot open the packed weights " + path_));
    struct Closer {
        int fd;
        ~Closer() { ::close(fd); }
    } closer{fd};
    std::vector<Entry*> entries;
    for (auto& [name, entry] : entries_) entries.push_back(&entry);
    const auto begin_of = [&](const Entry* e) { return static_cast<std::size_t>(e->matrix.data - data_); };
    const auto end_of = [&](const Entry* e) { return begin_of(e) + in_pages(e->matrix.bytes); };
    std::sort(entries.begin(), entries.end(), [&](const Entry* a, const Entry* b) { return begin_of(a) < begin_of(b); });
    std::size_t done = 0;
    for (std::size_t first = 0, last; first < entries.size(); first = last) {
        const std::size_t from = begin_of(entries[first]);
        for (last = first + 1; last < entries.size() && end_of(entries[last]) - from <= slab;) ++last;
        const std::size_t bytes = end_of(entries[last - 1]) - from;
        on_device_.push_back(backend.allocate(bytes));
        auto* target = static_cast<std::byte*>(on_device_.back()->data());
        backend.fill(target, bytes, [&](std::span<std::byte> piece, std::size_t offset) {
            for (std::size_t got = 0; got < piece.size();) {
                const ssize_t n = ::pread(fd, piece.data() + got, piece.size() - got, static_cast<off_t>(from + offset + got));
                if (n < 0 && errno == EINTR) continue;
                if (n <= 0) throw ModelError(errno_sentence("cannot read the packed weights " + path_));
                got += static_cast<std::size_t>(n);
            }
            ::posix_fadvise(fd, static_cast<off_t>(from + offset), static_cast<off_t>(piece.size()), POSIX_FADV_DONTNEED);
            done += piece.size();
            if (progress) progress(done, bytes_);
        });
        for (std::size_t i = first; i < last; ++i) entries[i]->matrix.data = target + (begin_of(entries[i]) - from);
    }
    release();
}

void PackedFile::settle() {
    constexpr std::size_t worth_a_copy = std::size_t(512) << 20;  // smaller weights are half in the caches
    if (!stream_ && bytes_ >= worth_a_copy) copy_ = std::make_unique<HugeCopy>(std::span(data_, bytes_), busy_);
}

void PackedFile::release() const { release_pages({data_, bytes_}); }

PackedFile::~PackedFile() {
    copy_.reset();
    if (data_) ::munmap(const_cast<std::byte*>(data_), bytes_);
}

std::vector<Matrix> PackedFile::matrices(const std::string& name, std::int64_t rows, std::int64_t cols) const {
    std::vector<Matrix> parts;
    if (auto it = entries_.find(name); it != entries_.end()) {
        parts.push_back(it->second.matrix);
    } else {
        for (int i = 0;; ++i) {
            auto part = entries_.find(name + "." + std::to_string(i));
            if (part == entries_.end()) break;
            parts.push_back(part->second.matrix);
        }
    }
    if (parts.empty()) throw ModelError("the model has no tensor " + name);
    std::int64_t have = 0;
    for (const Matrix& m : parts) {
        have += m.rows;
        // Quantized rows are stored in whole groups of 32; Backend::linear takes narrower activations for zero-padded ones.
        const bool plain = m.format == PackFormat::f32 || m.format == PackFormat::f16;
        if (m.cols != cols && (plain || m.cols != (cols + 31) / 32 * 32))
            throw ModelError("tensor " + name + " has " + std::to_string(m.cols) + " columns where " + std::to_string(cols) +
                             " are needed");
    }
    if (have != rows)
        throw ModelError("tensor " + name + " has " + std::to_string(have) + " rows where " + std::to_string(rows) + " are needed");
    return parts;
}

std::int64_t PackedFile::rows(const std::string& name) const {
    auto it = entries_.find(name);
    if (it == entries_.end()) throw ModelError("the model has no tensor " + name);
    return it->second.matrix.rows;
}

Vector PackedFile::vector(const std::string& name, std::int64_t size) const {
    auto it = entries_.find(name);
    if (it == entries_.end() || !it->second.vector) throw ModelError("the model has no tensor " + name);
    if (it->second.matrix.cols != size)
        throw ModelError("tensor " + name + " has " + std::to_string(it->second.matrix.cols) + " values where " +
                         std::to_string(size) + " are needed");
    return {reinterpret_cast<const float*>(it->second.matrix.data), size};
}

// ---- the child

namespace {

// Newer than the oldest kernel headers that this is built with.
constexpr std::uint64_t access_truncate = 1ull << 14;                  // Landlock 3
constexpr std::uint64_t net_bind = 1 << 0, net_connect = 1 << 1;       // 4
constexpr std::uint64_t scope_abstract_sockets = 1 << 0, scope_signals = 1 << 1;  // 6
struct LandlockRules {
    std::uint64_t fs, net, scoped;
};

/// Nothing but reading the model's and writing the cache's folder; as much of that as the kernel's Landlock knows, silently nothing without.
void lock_down(const std::string& model, const std::string& cache_directory) {
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    const long version = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 1) return;
    LandlockRules rules{};
    rules.fs = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE |
               LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
               LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
               LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
               LANDLOCK_ACCESS_FS_MAKE_SYM;
    if (version >= 3) rules.fs |= access_truncate;
    if (version >= 4) rules.net = net_bind | net_connect;
    if (version >= 6) rules.scoped = scope_abstract_sockets | scope_signals;
    const std::size_t known = version >= 6 ? sizeof rules : version >= 4 ? offsetof(LandlockRules, scoped) : offsetof(LandlockRules, net);
    const int ruleset = static_cast<int>(::syscall(SYS_landlock_create_ruleset, &rules, known, 0));
    if (ruleset < 0) return;
    auto allow = [&](const std::string& path, std::uint64_t access) {
        landlock_path_beneath_attr rule{};
        rule.allowed_access = access & rules.fs;
        rule.parent_fd = ::open(path.c_str(), O_PATH | O_CLOEXEC);
        if (rule.parent_fd < 0) return;
        ::syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
        ::close(rule.parent_fd);
    };
    allow(model, LANDLOCK_ACCESS_FS_READ_FILE);
    allow(cache_directory, LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG |
                               LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_READ_DIR | access_truncate);
    ::syscall(SYS_landlock_restrict_self, ruleset, 0);
    ::close(ruleset);
}

}  // namespace

std::string find_packer() {
    char self[PATH_MAX];
    const ssize_t n = ::readlink("/proc/self/exe", self, sizeof self - 1);
    std::vector<fs::path> places;
    if (n > 0) {
        // Beside the program in a build tree, wherever the program is in it; then where it is installed.
        fs::path directory = fs::path(std::string(self, n)).parent_path();
        for (int up = 0; up < 4 && directory.has_relative_path(); ++up, directory = directory.parent_path())
            places.push_back(directory / "libexec" / "glmd-pack");
        places.push_back(fs::path(std::string(self, n)).parent_path().parent_path() / "libexec" / "glmd" / "glmd-pack");
    }
    places.push_back(fs::path(GLMD_LIBEXEC) / "glmd-pack");
    for (const fs::path& p : places)
        if (::access(p.c_str(), X_OK) == 0) return p;
    throw ModelError("glmd-pack isn't installed (looked at " + places.back().string() + ")");
}

int pack_main(int argc, char** argv) {
    if (argc != 11) {
        std::fprintf(stderr, "usage: glmd-pack MODEL METADATA WEIGHTS ISA MEMORY CONTEXT KV_TYPE PREFILL_ROWS MAX_SEQUENCES auto|resident|stream\n");
        return 2;
    }
    try {
        const std::string model = argv[1];
        const PackedPaths paths{argv[2], argv[3]};
        CpuOptions options;
        options.isa = argv[4];
        options.threads = 1;  // a thread started before lock_down() would stay outside
        const PackLimits limits{std::strtoull(argv[5], nullptr, 10), std::atoi(argv[6]), kv_type_named(argv[7]), std::atoi(argv[8]), std::atoi(argv[9]),
                                weights_mode_named(argv[10]).value_or(WeightsMode::automatic)};
        const bool cuda = options.isa == "cuda";
        const auto backend = cuda ? nullptr : make_cpu_backend(options);
        lock_down(model, fs::path(paths.weights).parent_path().string());
        pack_model(model, paths, cuda ? cuda_weight_layout() : *backend, backend.get(), limits, [&](std::size_t done, std::size_t total) {
            std::printf("%zu %zu\n", done, total);
            std::fflush(stdout);
        });
        return 0;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "%s", e.what());
        return 1;
    }
}

void pack_model_in_child(const std::string& gguf_path, const PackedPaths& paths, const std::string& isa,
                         const PackLimits& limits, const PackProgress& progress) {
    const std::string packer = find_packer();
    int out[2], err[2];
    if (::pipe2(out, O_CLOEXEC) != 0) throw ModelError(errno_sentence("cannot start glmd-pack"));
    if (::pipe2(err, O_CLOEXEC) != 0) throw ModelError(errno_sentence("cannot start glmd-pack"));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    const std::string model = fs::absolute(gguf_path);
    std::vector<std::string> arguments{packer, model, paths.metadata, paths.weights, isa, std::to_string(limits.memory), std::to_string(limits.context),
                                       limits.kv ? name(*limits.kv) : "auto", std::to_string(limits.prefill_rows), std::to_string(limits.max_sequences),
                                       name(limits.weights)};
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    char* no_environment[] = {nullptr};
    pid_t child = 0;
    const int failed = ::posix_spawn(&child, packer.c_str(), &actions, nullptr, argv.data(), no_environment);
    posix_spawn_file_actions_destroy(&actions);
    ::close(out[1]), ::close(err[1]);
    if (failed != 0) {
        ::close(out[0]), ::close(err[0]);
        throw ModelError(std::string("cannot start glmd-pack: ") + std::strerror(failed));
    }
    struct Reaper {  // a progress function that throws leaves no child behind
        pid_t child;
        int out, err, status = 0;
        bool done = false;
        void wait() {
            ::close(out), ::close(err);
            while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
            done = true;
        }
        ~Reaper() {
            if (done) return;
            ::kill(child, SIGTERM);
            wait();
        }
    } reaper{child, out[0], err[0]};
    std::string lines, message;
    bool open_out = true, open_err = true;
    std::size_t done = 0, total = 0;
    while (open_out || open_err) {
        pollfd fds[2] = {{open_out ? out[0] : -1, POLLIN, 0}, {open_err ? err[0] : -1, POLLIN, 0}};
        const int ready = ::poll(fds, 2, 100);
        if (ready < 0 && errno != EINTR) break;
        if (ready <= 0) {  // a chance to stop
            if (progress && total > 0) progress(done, total);
            continue;
        }
        char buffer[4096];
        if (fds[0].revents) {
            const ssize_t n = ::read(out[0], buffer, sizeof buffer);
            if (n <= 0) open_out = false;
            else lines.append(buffer, n);
            for (std::size_t end; (end = lines.find('\n')) != std::string::npos; lines.erase(0, end + 1)) {
                if (std::sscanf(lines.c_str(), "%zu %zu", &done, &total) == 2 && progress) progress(done, total);
            }
        }
        if (fds[1].revents) {
            const ssize_t n = ::read(err[0], buffer, sizeof buffer);
            if (n <= 0) open_err = false;
            else if (message.size() < 4096) message.append(buffer, n);
        }
    }
    reaper.wait();
    const int status = reaper.status;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    if (message.empty())
        message = WIFSIGNALED(status) ? "glmd-pack was killed by signal " + std::to_string(WTERMSIG(status)) +
                                            " while it read the model (out of memory, or a file that is broken)"
                                      : "glmd-pack failed";
    throw ModelError(message);
}

}  // namespace glmd
