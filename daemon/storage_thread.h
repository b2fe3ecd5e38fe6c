#pragma once
// Work that blocks (SQLite's fsync, tokenizing megabytes) on a thread of its own, awaited by coroutines of the I/O thread.
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "daemon/http.h"
#include "daemon/metrics.h"
#include "storage/session_store.h"

namespace glmd {

/// Runs work() on the pool and resumes the awaiting coroutine where it lives, with the result or the exception.
/// Not cancellable: the pool must be joined before the coroutine's io_context goes away.
template <class Work, class Result = std::invoke_result_t<Work&>>
asio::awaitable<Result> run_on(asio::thread_pool& pool, Work work) {
    using Kept = std::conditional_t<std::is_void_v<Result>, std::monostate, Result>;
    std::optional<Kept> result;
    std::exception_ptr error;
    auto start = [&pool, &work, &result, &error](auto handler) {
        auto guard = asio::make_work_guard(asio::get_associated_executor(handler));
        asio::post(pool, [&work, &result, &error, handler = std::move(handler), guard = std::move(guard)]() mutable {
            try {
                if constexpr (std::is_void_v<Result>) {
                    work();
                    result.emplace();
                } else {
                    result.emplace(work());
                }
            } catch (...) {
                error = std::current_exception();
            }
            auto executor = guard.get_executor();
            asio::post(executor, std::move(handler));
        });
    };
    co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start, asio::use_awaitable);
    if (error) std::rethrow_exception(error);
    if constexpr (!std::is_void_v<Result>) co_return std::move(*result);
}

class StorageThread {
public:
    StorageThread(std::unique_ptr<SessionStore> store, std::shared_ptr<Metrics> metrics)
        : store_(std::move(store)), metrics_(std::move(metrics)) {}
    ~StorageThread() { join(); }

    /// Before the first call: what happens, on this thread, whenever the disk is full.
    std::function<void()> when_full = [] {};

    /// work(SessionStore&); calls run in the order they were made.
    template <class Work, class Result = std::invoke_result_t<Work&, SessionStore&>>
    asio::awaitable<Result> call(Work work) {
        return run_on(pool_, [this, asked = Clock::now(), work = std::move(work)]() mutable -> Result {
            Timing timing(*metrics_, asked);
            try {
                return work(*store_);
            } catch (const StorageFull&) {
                when_full();
                throw;
            }
        });
    }
    /// Without waiting; `work` must not throw.
    template <class Work>
    void post(Work work) {
        asio::post(pool_, [this, asked = Clock::now(), work = std::move(work)]() mutable {
            Timing timing(*metrics_, asked);
            work(*store_);
        });
    }
    /// For other threads, which wait for it. Not after join().
    template <class Work, class Result = std::invoke_result_t<Work&, SessionStore&>>
    Result ask(Work work) {
        std::packaged_task<Result(SessionStore&)> task(std::move(work));
        std::future<Result> answer = task.get_future();
        post([&task](SessionStore& store) { task(store); });
        return answer.get();
    }
    void join() { pool_.join(); }

private:
    using Clock = std::chrono::steady_clock;
    struct Timing {
        Timing(Metrics& m, Clock::time_point asked) : metrics(m) { metrics.storage_wait.observe(std::chrono::duration<double>(begun - asked).count()); }
        ~Timing() { metrics.storage.observe(std::chrono::duration<double>(Clock::now() - begun).count()); }
        Metrics& metrics;
        Clock::time_point begun = Clock::now();
    };

    std::unique_ptr<SessionStore> store_;
    std::shared_ptr<Metrics> metrics_;
    asio::thread_pool pool_{1};
};

}  // namespace glmd
