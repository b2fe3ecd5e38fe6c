// What is peculiar: the work is cut into whole files or tensors, taken by threads one after the other; progress is reported on
// the caller's thread, whose exception stops them all. The state of libsodium's hash is opaque and stays out of the header.
#include "engine/checkpoint/hashes.h"

#include <fcntl.h>
#include <sodium.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/mapped_file.h"

namespace glmd {
namespace {

static_assert(sizeof(crypto_generichash_state) <= 512 && alignof(crypto_generichash_state) <= 64);

void start_sodium() {
    if (sodium_init() < 0) throw ModelError("libsodium doesn't start on this machine.");
}

/// Runs job(k, done, stop) for k in 0 … count - 1.
template <class Job>
void share(std::size_t count, int threads, const HashProgress& progress, const Job& job) {
    std::atomic<std::size_t> next{0};
    std::atomic<std::uint64_t> done{0};
    std::atomic<bool> stop{false};
    std::exception_ptr failure;
    std::mutex mutex;
    std::condition_variable ended;
    std::vector<std::thread> pool;
    const auto fail = [&] {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        stop = true;
    };
    const auto n = std::min<std::size_t>(static_cast<std::size_t>(std::max(1, threads)), count);
    auto running = n;  // under the mutex
    for (std::size_t i = 0; i < n; ++i)
        pool.emplace_back([&] {
            try {
                for (std::size_t k; !stop && (k = next++) < count;) job(k, done, stop);
            } catch (...) {
                fail();
            }
            const std::lock_guard lock(mutex);
            --running;
            ended.notify_one();
        });
    for (bool over = n == 0; !over;) {
        {
            std::unique_lock lock(mutex);
            over = ended.wait_for(lock, std::chrono::milliseconds(50), [&] { return running == 0; });
        }
        if (stop || !progress) continue;
        try {
            progress(done.load());
        } catch (...) {
            fail();
        }
    }
    for (auto& t : pool) t.join();
    if (failure) std::rethrow_exception(failure);
}

std::string sha256(const std::string& path, std::atomic<std::uint64_t>& done, const std::atomic<bool>& stop) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const auto fail = [&] { return ModelError(path + ": cannot read the file: " + std::generic_category().message(errno) + "."); };
    if (fd < 0) throw fail();
    struct Close {
        int fd;
        ~Close() { ::close(fd); }
    } close{fd};
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    std::vector<unsigned char> buffer(std::size_t{1} << 20);
    while (!stop) {
        const auto n = ::read(fd, buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw fail();
        if (n == 0) break;
        crypto_hash_sha256_update(&state, buffer.data(), static_cast<unsigned long long>(n));
        done += static_cast<std::uint64_t>(n);
    }
    unsigned char hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_final(&state, hash);
    char hex[2 * sizeof hash + 1];
    sodium_bin2hex(hex, sizeof hex, hash, sizeof hash);
    return hex;
}

}  // namespace

Hash::Hash() {
    start_sodium();
    crypto_generichash_init(reinterpret_cast<crypto_generichash_state*>(state_), nullptr, 0, size);
}

void Hash::add(std::span<const std::byte> data) {
    crypto_generichash_update(reinterpret_cast<crypto_generichash_state*>(state_), reinterpret_cast<const unsigned char*>(data.data()), data.size());
}

std::array<std::byte, Hash::size> Hash::finish() {
    std::array<std::byte, size> out;
    crypto_generichash_final(reinterpret_cast<crypto_generichash_state*>(state_), reinterpret_cast<unsigned char*>(out.data()), size);
    return out;
}

std::vector<std::string> sha256_files(const std::vector<std::string>& paths, int threads, const HashProgress& progress) {
    start_sodium();
    std::vector<std::string> out(paths.size());
    share(paths.size(), threads, progress, [&](std::size_t k, auto& done, const auto& stop) { out[k] = sha256(paths[k], done, stop); });
    return out;
}

HashCheck check_hashes(const std::string& gguf_path, int threads, const HashProgress& progress) {
    start_sodium();
    const Gguf file(gguf_path);
    HashCheck check;
    if (!file.has_bytes("glmd.hash.tensors") || !file.has_bytes("glmd.hash.header")) return check;
    check.recorded = true;
    const auto hashes = file.bytes("glmd.hash.tensors"), of_header = file.bytes("glmd.hash.header");
    const auto& tensors = file.tensors();
    const auto contents = file.contents();
    if (hashes.size() != tensors.size() * Hash::size || of_header.size() != Hash::size) {
        check.header = false;
        return check;
    }
    // Everything in front of the data, the header's own hash as zeros.
    const std::size_t end = tensors.empty() ? contents.size() : static_cast<std::size_t>(tensors.front().data.data() - contents.data());
    std::vector<std::byte> header(contents.begin(), contents.begin() + static_cast<std::ptrdiff_t>(end));
    std::memset(header.data() + (of_header.data() - contents.data()), 0, Hash::size);
    Hash hash;
    hash.add(header);
    check.header = std::ranges::equal(hash.finish(), of_header);

    std::vector<char> good(tensors.size());
    share(tensors.size(), threads, progress, [&](std::size_t k, auto& done, const auto& stop) {
        constexpr std::size_t piece = std::size_t{4} << 20;
        Hash h;
        for (auto left = tensors[k].data; !left.empty() && !stop;) {
            const auto now = left.first(std::min(piece, left.size()));
            h.add(now);
            release_pages(now);
            done += now.size();
            left = left.subspan(now.size());
        }
        good[k] = std::ranges::equal(h.finish(), hashes.subspan(k * Hash::size, Hash::size));
    });
    for (std::size_t k = 0; k < tensors.size(); ++k)
        if (!good[k]) check.damaged.push_back(tensors[k].name);
    check.tensors = tensors.size();
    return check;
}

}  // namespace glmd
