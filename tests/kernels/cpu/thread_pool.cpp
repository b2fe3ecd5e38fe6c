#include <catch2/catch.hpp>

#include <time.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "kernels/cpu/thread_pool.h"

using glmd::ThreadPool;

TEST_CASE("every chunk runs once, whatever the workers do") {
    for (int threads : {1, 2, 5}) {
        ThreadPool pool(threads);
        for (int round = 0; round < 3000; ++round) {
            const int chunks = round % 23;
            std::vector<int> count(23, 0);  // not atomic: run() must synchronize
            pool.run(chunks, [&](int i) { ++count[std::size_t(i)]; });
            int wrong = 0;
            for (int i = 0; i < 23; ++i) wrong += count[std::size_t(i)] != (i < chunks ? 1 : 0);
            if (wrong) FAIL("round " << round);
            if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // let them sleep
        }
    }
}

TEST_CASE("an idle pool costs nothing") {
    ThreadPool pool(3);
    pool.run(8, [](int) {});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const auto cpu_time = [] {
        timespec t;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
    };
    const double before = cpu_time();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    CHECK(cpu_time() - before < 0.005);
}

TEST_CASE("a late worker is left out for a while, then asked again") {
    using namespace std::chrono_literals;
    ThreadPool pool(2);
    const auto caller = std::this_thread::get_id();
    std::atomic<int> by_worker{0};
    const auto loop = [&](std::chrono::milliseconds worker_time) {  // chunks done by the worker
        by_worker = 0;
        pool.run(8, [&](int) {
            const bool mine = std::this_thread::get_id() == caller;
            if (!mine) ++by_worker;
            std::this_thread::sleep_for(mine ? 1ms : worker_time);
        });
        return by_worker.load();
    };
    bool left_out = false, asked_again = false;
    for (int tries = 0; tries < 50 && !left_out; ++tries) left_out = loop(100ms) > 0 && loop(1ms) == 0;
    CHECK(left_out);
    for (int tries = 0; tries < 50 && !asked_again; ++tries) asked_again = loop(1ms) > 0;
    CHECK(asked_again);
}
