#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace glmd {

/// Workers for one caller's parallel loops. A step has hundreds of loops of some 10 µs, so workers spin for a moment
/// after each and sleep when nothing comes: an idle pool costs no CPU. One thread at a time may call run().
class ThreadPool {
public:
    /// `threads` counts the caller: threads - 1 workers are started.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const { return int(workers_.size()) + 1; }

    /// Calls f(i) for i in [0, chunks), the caller taking part; returns when all are done. f mustn't throw.
    template <class F>
    void run(int chunks, const F& f) {
        run_chunks(chunks, [](const void* context, int i) { (*static_cast<const F*>(context))(i); }, &f);
    }
    /// Most chunks of one run().
    static constexpr int max_chunks = 0xffff;

private:
    using Call = void (*)(const void*, int);

    void run_chunks(int chunks, Call call, const void* context);
    void work();
    bool take_chunk(std::uint64_t state);
    bool alone();

    // The job: generation (32 bits) | chunks (16) | next chunk (16). While a chunk is untaken the job is alive, so whoever
    // takes one by compare-and-swap knows that call_ and context_, read before, belong to it.
    alignas(64) std::atomic<std::uint64_t> state_{0};
    std::atomic<Call> call_{nullptr};
    std::atomic<const void*> context_{nullptr};
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::atomic<int> sleeping_{0};
    std::atomic<bool> stop_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> workers_;
    std::chrono::steady_clock::time_point alone_until_;  // the workers are left out: see thread_pool.cpp
};

}  // namespace glmd
