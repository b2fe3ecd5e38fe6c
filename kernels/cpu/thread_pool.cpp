// The handshake is one 64-bit word (see the header). Waking is the only slow path: a worker that saw no new job for
// `spin` sleeps on a condition variable, and run() looks at sleeping_ after publishing. Both sides use sequentially
// consistent order, so either the worker sees the job or run() sees the sleeper.
// On a busy machine a worker is preempted with a chunk in its hands, or, when it is woken, takes the caller's own
// processor: milliseconds where a loop takes 10 µs. After such a loss the caller works alone for several times as long.
#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>

namespace glmd {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto spin = std::chrono::microseconds(50);  // longer than the caller's small operations, shorter than a tick
constexpr auto patience = std::chrono::microseconds(100);  // on an idle machine waking takes some 10 µs
constexpr int alone_per_loss = 16;
constexpr auto longest_alone = std::chrono::milliseconds(20);

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

std::uint32_t generation(std::uint64_t state) { return std::uint32_t(state >> 32); }
int chunks_of(std::uint64_t state) { return int(state >> 16 & 0xffff); }
int next_of(std::uint64_t state) { return int(state & 0xffff); }

}  // namespace

ThreadPool::ThreadPool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::take_chunk(std::uint64_t state) {
    const Call call = call_.load(std::memory_order_acquire);
    const void* context = context_.load(std::memory_order_acquire);
    if (!state_.compare_exchange_strong(state, state + 1)) return false;
    call(context, next_of(state));
    done_.fetch_add(1, std::memory_order_release);
    return true;
}

void ThreadPool::run_chunks(int chunks, Call call, const void* context) {
    if (workers_.empty() || chunks <= 1 || alone()) {
        for (int i = 0; i < chunks; ++i) call(context, i);
        return;
    }
    call_.store(call, std::memory_order_release);
    context_.store(context, std::memory_order_release);
    done_.store(0, std::memory_order_relaxed);
    const std::uint64_t mine = std::uint64_t(generation(state_.load()) + 1u) << 32 | std::uint64_t(chunks) << 16;
    state_.store(mine);
    const auto published = Clock::now();
    auto started = published;
    if (sleeping_.load() > 0 && sleeping_.exchange(0) > 0) {  // once: a woken worker may get no processor for long
        { std::lock_guard lock(mutex_); }
        wake_.notify_all();
        started = Clock::now();
    }
    bool took_part = false;
    for (;;) {
        const std::uint64_t state = state_.load();
        if (next_of(state) >= chunks) break;
        took_part |= take_chunk(state);
    }
    const auto finished = Clock::now();
    Clock::duration lost = started - published;
    for (int tries = 0; done_.load(std::memory_order_acquire) < chunks; ++tries) {
        if (tries < 2000) {
            pause();
        } else {  // the worker was preempted, perhaps by us
            std::this_thread::yield();
            // Chunks are about equally long: whoever did one knows how long others may take over theirs.
            if (took_part) lost = (started - published) + (Clock::now() - finished);
        }
    }
    if (lost > patience + (finished - started)) {
        alone_until_ = Clock::now() + std::min<Clock::duration>(alone_per_loss * lost, longest_alone);
    }
}

bool ThreadPool::alone() {
    if (alone_until_ == Clock::time_point()) return false;
    if (Clock::now() < alone_until_) return true;
    alone_until_ = {};
    return false;
}

void ThreadPool::work() {
    std::uint32_t seen = 0;
    for (;;) {
        const auto start = Clock::now();
        std::uint64_t state = state_.load();
        for (int tries = 1; generation(state) == seen && !stop_; ++tries) {
            pause();
            if (tries % 16 == 0 && Clock::now() - start > spin) {
                std::unique_lock lock(mutex_);
                ++sleeping_;  // run() takes it back; one that stays, because we didn't sleep, costs a needless notify
                wake_.wait(lock, [&] { return generation(state_.load()) != seen || stop_; });
            }
            state = state_.load();
        }
        if (stop_) return;
        seen = generation(state);
        while (generation(state) == seen && next_of(state) < chunks_of(state)) {
            take_chunk(state);
            state = state_.load();
        }
    }
}

}  // namespace glmd
