// What is peculiar: nobody plans reads ahead of time. A reader that has nothing to do looks which of the two wanted layers still
// lacks bytes, and fetches the next piece of it; so any order of need() is right, and the order of a pass is fast.
#include "engine/checkpoint/layer_stream.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace glmd {
namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t piece_bytes = std::size_t(2) << 20;
constexpr int readers = 3;  // a disk is at its best with several reads to choose from

std::size_t rounded(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }
std::size_t slot_bytes(std::size_t layer) { return rounded(layer, layer < HugePages::page ? page : HugePages::page); }
int slots_for(int layers) { return layers == 1 ? 1 : layers % 2 == 0 ? 2 : 3; }

}  // namespace

std::size_t LayerStream::buffer_bytes(int layers, std::size_t largest) { return slots_for(layers) * slot_bytes(largest); }

int LayerStream::slot_of(int layer) const {
    const int last = static_cast<int>(layers_.size()) - 1;
    return layer == last && last > 0 && last % 2 == 0 ? 2 : layer % 2;
}

LayerStream::LayerStream(const std::string& path, std::vector<ByteRange> layers, bool direct) : path_(path), layers_(std::move(layers)) {
    std::size_t largest = 0;
    for (const ByteRange& r : layers_) {
        if (r.begin % page != 0 || r.end % page != 0 || r.end <= r.begin) throw ModelError("the packed weights " + path + " have layers that aren't in pages");
        largest = std::max(largest, r.size());
    }
    if (layers_.empty()) throw ModelError("the packed weights " + path + " have no layers");
    if (direct) file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (!direct || (file_ < 0 && errno == EINVAL)) file_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file_ < 0) throw ModelError("cannot open the packed weights " + path + ": " + std::strerror(errno));

    const int count = static_cast<int>(layers_.size());
    slots_.resize(slots_for(count));
    slot_bytes_ = slot_bytes(largest);
    buffers_ = std::make_unique<HugePages>(buffer_bytes(count, largest));
    if (!buffers_->data()) {
        ::close(file_);
        throw ModelError("insufficient memory: no address space for two layers of the weights");
    }
    for (int i = 0; i < readers; ++i) readers_.emplace_back([this] { read(); });
}

LayerStream::~LayerStream() {
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& t : readers_) t.join();
    ::close(file_);
}

void LayerStream::need(int layer) {
    std::unique_lock lock(mutex_);
    Slot& slot = slots_[slot_of(layer)];
    if (slot.layer == layer && !slot.failure.empty()) {
        arrival_.wait(lock, [&] { return slot.in_flight == 0; });
        slot = {};
        work_.notify_all();
    }
    if (first_ != layer) {
        first_ = layer;
        work_.notify_all();
    }
    arrival_.wait(lock, [&] { return slot.layer == layer && (slot.arrived == layers_[layer].size() || !slot.failure.empty()); });
    if (!slot.failure.empty()) throw ModelError(slot.failure);
}

void LayerStream::done(int layer) {
    {
        std::lock_guard lock(mutex_);
        if (first_ != layer) return;
        first_ = after(layer);
    }
    work_.notify_all();
}

/// The next bytes that a wanted layer lacks, if any.
LayerStream::Piece LayerStream::next_piece() {
    for (const int layer : {first_, after(first_)}) {
        Slot& slot = slots_[slot_of(layer)];
        if (slot.layer != layer) {
            if (slot.in_flight > 0) continue;  // of a layer that isn't wanted any more
            slot = {};
            slot.layer = layer;
        }
        const std::size_t left = layers_[layer].size() - slot.asked;
        if (left == 0 || !slot.failure.empty()) continue;
        const Piece piece{layer, slot.asked, std::min(left, piece_bytes)};
        slot.asked += piece.size;
        return piece;
    }
    return {};
}

/// What went wrong, or nothing.
std::string LayerStream::fetch(const Piece& piece) {
    std::byte* to = buffers_->data() + slot_of(piece.layer) * slot_bytes_ + piece.offset;
    const std::uint64_t at = layers_[piece.layer].begin + piece.offset;
    for (std::size_t done = 0; done < piece.size;) {
        const ssize_t n = ::pread(file_, to + done, piece.size - done, static_cast<off_t>(at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EINVAL && direct()) {  // some file systems open with O_DIRECT and then can't
            ::fcntl(file_, F_SETFL, ::fcntl(file_, F_GETFL) & ~O_DIRECT);
            continue;
        }
        if (n < 0) return "cannot read the packed weights " + path_ + " at byte " + std::to_string(at + done) + ": " + std::strerror(errno);
        if (n == 0) return "the packed weights " + path_ + " are torn: they end at byte " + std::to_string(at + done);
        done += static_cast<std::size_t>(n);
    }
    if (!direct()) ::posix_fadvise(file_, static_cast<off_t>(at), static_cast<off_t>(piece.size), POSIX_FADV_DONTNEED);
    return {};
}

/// A reader's life.
void LayerStream::read() {
    std::unique_lock lock(mutex_);
    for (;;) {
        Piece piece;
        work_.wait(lock, [&] { return stopping_ || (piece = next_piece()).layer >= 0; });
        if (stopping_) return;
        Slot& slot = slots_[slot_of(piece.layer)];
        ++slot.in_flight;
        if (in_flight_++ == 0) busy_since_ = Clock::now();
        lock.unlock();
        const std::string failure = fetch(piece);
        lock.lock();
        if (--in_flight_ == 0) busy_s_ += std::chrono::duration<double>(Clock::now() - busy_since_).count();
        --slot.in_flight;
        if (failure.empty()) slot.arrived += piece.size, bytes_read_ += piece.size;
        else slot.failure = failure;
        if (slot.arrived == layers_[piece.layer].size() || !slot.failure.empty()) arrival_.notify_all();
        if (slot.in_flight == 0) work_.notify_all();  // the place may be wanted for another layer
    }
}

bool LayerStream::direct() const { return (::fcntl(file_, F_GETFL) & O_DIRECT) != 0; }

double LayerStream::bytes_per_s() const {
    std::lock_guard lock(mutex_);
    const double open = in_flight_ > 0 ? std::chrono::duration<double>(Clock::now() - busy_since_).count() : 0;
    return busy_s_ + open > 0 ? static_cast<double>(bytes_read_) / (busy_s_ + open) : 0;
}

double read_speed(const std::string& path) {
    constexpr std::uint64_t part = 32 << 20, most = 256 << 20;
    std::error_code error;
    const std::uint64_t size = std::filesystem::file_size(path, error) / page * page;
    if (error || size == 0) return 0;
    std::vector<ByteRange> parts;
    for (std::uint64_t at = 0; at < std::min(size, most); at += part) parts.push_back({at, std::min(at + part, size)});
    try {
        LayerStream stream(path, parts);
        for (int i = 0; i < static_cast<int>(parts.size()); ++i) stream.need(i);
        return stream.bytes_per_s();
    } catch (const ModelError&) {
        return 0;
    }
}

}  // namespace glmd
