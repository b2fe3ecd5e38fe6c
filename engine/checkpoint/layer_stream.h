#pragma once
// The layers of a packed file that is larger than memory, read around and around past the page cache: while one layer is worked
// on, the next one is on its way.
//
//   buffers   | layer 0, 2, 4 … | layer 1, 3, 5 … |        each as large as the largest layer
//
// A layer always comes to the same place, so what points into it needn't know that it comes and goes. Neighbours differ in place;
// with an odd number of layers the last one, whose neighbour is layer 0, has a third buffer to itself.
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/error.h"
#include "kernels/huge_pages.h"

namespace glmd {

struct ByteRange {
    std::uint64_t begin = 0, end = 0;
    std::size_t size() const { return static_cast<std::size_t>(end - begin); }
};

/// One thread uses it; readers of its own fill the buffers.
class LayerStream {
public:
    /// Ranges of the file that begin and end at multiples of 4096; without `direct` as on file systems that have no O_DIRECT. ModelError.
    LayerStream(const std::string& path, std::vector<ByteRange> layers, bool direct = true);
    ~LayerStream();
    LayerStream(const LayerStream&) = delete;
    LayerStream& operator=(const LayerStream&) = delete;

    /// Where this layer's bytes are while it is there.
    const std::byte* place(int layer) const { return buffers_->data() + slot_of(layer) * slot_bytes_; }
    /// Waits until the layer is there; it stays until another one is asked for. ModelError when it can't be read; asking again
    /// tries again.
    void need(int layer);
    /// This layer, if it was the last one asked for, isn't needed any more: the one after the next may take its place.
    void done(int layer);

    bool direct() const;  // false: the file system has no O_DIRECT, and pages are dropped from its cache after each read
    double bytes_per_s() const;  // while there was something to read; 0 before
    /// Memory for so many layers, of which the largest has so many bytes.
    static std::size_t buffer_bytes(int layers, std::size_t largest);

private:
    using Clock = std::chrono::steady_clock;
    struct Slot {
        int layer = -1;
        std::size_t asked = 0, arrived = 0;  // bytes of it
        int in_flight = 0;                   // reads
        std::string failure;
    };
    /// A piece that a reader is to fetch.
    struct Piece {
        int layer = -1;
        std::size_t offset = 0, size = 0;
    };

    int slot_of(int layer) const;
    int after(int layer) const { return (layer + 1) % static_cast<int>(layers_.size()); }
    Piece next_piece();
    std::string fetch(const Piece& piece);
    void read();

    std::string path_;
    std::vector<ByteRange> layers_;
    int file_ = -1;
    std::unique_ptr<HugePages> buffers_;
    std::size_t slot_bytes_ = 0;

    mutable std::mutex mutex_;  // guards what follows
    std::condition_variable work_, arrival_;
    std::vector<Slot> slots_;
    int first_ = 0;  // this layer and the next are wanted
    int in_flight_ = 0;
    bool stopping_ = false;
    std::uint64_t bytes_read_ = 0;
    Clock::time_point busy_since_;
    double busy_s_ = 0;

    std::vector<std::thread> readers_;
};

/// Bytes a second that the file's first 256 MB come at; 0 when they can't be read.
double read_speed(const std::string& path);

}  // namespace glmd
