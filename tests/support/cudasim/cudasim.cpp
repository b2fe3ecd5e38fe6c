// The fibers. This file is compiled without the thread sanitizer, whose business is the kernels' memory and not this bookkeeping;
// CUDASIM_TSAN says that it runs all the same.
#include "cudasim.h"

#include <sys/mman.h>

#include <algorithm>
#include <boost/context/detail/fcontext.hpp>
#include <deque>
#include <mutex>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CUDASIM_TSAN
extern "C" {
void __tsan_acquire(void*);
void __tsan_release(void*);
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
}
#else
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif

namespace cudasim {

namespace context = boost::context::detail;

Options options;
Thread* current;
uint3 block_index, block_size, grid_size;
unsigned char* dynamic_shared;

namespace {

enum class State : char { ready, at_barrier, in_collective, done };

struct Fiber : Thread {
    context::fcontext_t context{};
    unsigned char* stack = nullptr;  // its first page is a guard
    std::size_t stack_bytes = 0;
    State state = State::done;
    Site at{"?", 0};
    std::deque<std::pair<int, Copy>> copies;  // by group
    int group = 0;
    void* fake_stack = nullptr;
    const void* bottom = nullptr;
    void* tsan = nullptr;
};

/// One meeting of a warp's lanes; two buffers, so that a fast lane may enter the next while a slow one still reads.
struct Meeting {
    unsigned mask = 0, arrived = 0;
    Collective kind{};
    unsigned bytes = 0;
    Site at{};
    unsigned char generation[32] = {};
    alignas(16) unsigned char buffers[2][32 * slot_bytes];
};
struct Warp {
    unsigned lanes = 0, done = 0;
    std::vector<Meeting*> meetings;
};

constexpr std::size_t page = 4096, arena_bytes = std::size_t(4) << 20;
#if defined(__SANITIZE_ADDRESS__) || defined(CUDASIM_TSAN)
constexpr std::size_t stack_bytes = 256 * 1024;
#else
constexpr std::size_t stack_bytes = 64 * 1024;
#endif
// With the thread sanitizer a fiber is used again only after as many blocks: it carries what its block's barriers put in order.
constexpr std::size_t ring_blocks = 4, ring_threads = 2048;

void drop_pool();

struct Machine {
    ~Machine() { drop_pool(); }
    std::mutex mutex;  // one launch at a time
    std::vector<Fiber*> pool, threads, ready;
    std::vector<Warp> warps;
    Fiber main;
    const std::function<void()>* body = nullptr;
    unsigned alive = 0, arrived = 0;
    unsigned char* arena = nullptr;
    std::size_t used = 0, ring = 0;
    std::vector<std::pair<const void*, void*>> slots;
    std::string error;
    std::uint64_t random_state = 1;
    std::uint32_t priority[32] = {};
    Site sites[256];  // no container, which the thread sanitizer would see fibers write to
    std::size_t site_count = 0;
    char start = 0, end = 0, fences = 0;  // what the thread sanitizer knows launches and fences by

    bool random() const { return options.seed != 0; }
    std::uint32_t draw() {
        random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
        return std::uint32_t(random_state >> 16);
    }
} machine;

Fiber* self() { return static_cast<Fiber*>(current); }

void resumed(Fiber* me, context::transfer_t t) {
    auto* from = static_cast<Fiber*>(t.data);
    from->context = t.fctx;
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    std::size_t size;
    __sanitizer_finish_switch_fiber(me ? me->fake_stack : nullptr, &bottom, &size);
    if (from == &machine.main) from->bottom = bottom, from->stack_bytes = size;
#else
    (void)me;
#endif
}

void jump(Fiber* from, Fiber* to) {
    current = to;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from->fake_stack, to->bottom, to->stack_bytes);
#endif
#ifdef CUDASIM_TSAN
    __tsan_switch_to_fiber(to->tsan, 1);  // 1: puts nothing in order
#endif
    resumed(from, context::jump_fcontext(to->context, from));
}

Fiber* pick() {
    auto& ready = machine.ready;
    if (ready.empty()) return &machine.main;
    std::size_t chosen = ready.size() - 1;
    if (machine.random()) {
        chosen = machine.draw() % ready.size();
        if (options.seed % 2 == 0) {
            if (machine.draw() % 512 == 0)
                for (auto& p : machine.priority) p = machine.draw();
            for (std::size_t i = 0, first = chosen; i < ready.size(); ++i) {
                const std::size_t j = (first + i) % ready.size();
                if (machine.priority[ready[j]->warp] > machine.priority[ready[chosen]->warp]) chosen = j;
            }
        }
    }
    Fiber* fiber = ready[chosen];
    ready[chosen] = ready.back();
    ready.pop_back();
    return fiber;
}

void make_ready(Fiber* fiber) {
    fiber->state = State::ready;
    machine.ready.push_back(fiber);
}

void park() {
    Fiber *me = self(), *next = pick();
    if (next != me) jump(me, next);
}

void release_barrier() {
    const Fiber* first = nullptr;
    machine.arrived = 0;
    for (const Fiber* f : machine.threads) {
        if (f->state != State::at_barrier) continue;
        if (!first) first = f;
        if (f->at.line != first->at.line || std::strcmp(f->at.file, first->at.file)) fail("threads of a block wait at different barriers", f->at);
    }
    for (Fiber* f : machine.threads)
        if (f->state == State::at_barrier) make_ready(f);
}

void entry(context::transfer_t t) {
    resumed(nullptr, t);
    for (;;) {
        Fiber* me = self();
        __tsan_acquire(&machine.start);
        (*machine.body)();
        __tsan_release(&machine.end);
        if (!me->copies.empty()) fail("a thread ends with copies that nobody waited for", me->at);
        me->state = State::done;
        --machine.alive;
        machine.warps[me->warp].done |= 1u << me->lane;
        if (machine.arrived && machine.arrived == machine.alive) release_barrier();
        park();
    }
}

Fiber* make_fiber() {
    // Kernels read from it (threadIdx). Pages of its own: what is unmapped is in nobody's way, what is deleted is a race.
    auto* f = new (::mmap(nullptr, sizeof(Fiber), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) Fiber;
    f->stack_bytes = stack_bytes;
    f->stack = static_cast<unsigned char*>(::mmap(nullptr, stack_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    ::mprotect(f->stack, page, PROT_NONE);
    f->bottom = f->stack + page;
    f->context = context::make_fcontext(f->stack + page + stack_bytes, stack_bytes, entry);
#ifdef CUDASIM_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
    return f;
}

/// After a failure fibers are left in the middle of a kernel.
void drop_pool() {
    for (Fiber* f : machine.pool) {
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(f->bottom, f->stack_bytes);
#endif
#ifdef CUDASIM_TSAN
        __tsan_destroy_fiber(f->tsan);
#endif
        ::munmap(f->stack, f->stack_bytes + page);
        f->~Fiber();
        ::munmap(f, sizeof(Fiber));
    }
    machine.pool.clear();
    machine.ready.clear();
}

unsigned char* take(std::size_t bytes, std::size_t align) {
    const std::size_t at = (machine.used + align - 1) / align * align;
    machine.used = at + bytes + 32;  // and a border
    if (machine.used > arena_bytes) fail("shared memory is used up", {"", 0});
    unsigned char* p = machine.arena + at;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(p, bytes);
#endif
    return p;
}

void run_block(dim3 grid, dim3 block, std::size_t shared, unsigned long id) {
    const unsigned n = block.x * block.y * block.z;
    block_index = {unsigned(id % grid.x), unsigned(id / grid.x % grid.y), unsigned(id / grid.x / grid.y)};
    block_size = {block.x, block.y, block.z};
    grid_size = {grid.x, grid.y, grid.z};
    std::size_t first = 0;
    void* where = nullptr;
#ifdef CUDASIM_TSAN
    if (machine.arena) ::munmap(machine.arena, arena_bytes);
    machine.arena = nullptr;
    // Addresses that no block had lately; not ever, since each leaves a mapping of the sanitizer's behind.
    static unsigned blocks = 0;
    where = reinterpret_cast<void*>(0x7e8000000000ull + blocks++ % 4096 * (2 * arena_bytes));
    first = machine.ring % (std::max<std::size_t>(1, std::min(ring_blocks, ring_threads / n)) * n);
    machine.ring = first + n;
#endif
    while (machine.pool.size() < first + n) machine.pool.push_back(make_fiber());
    if (!machine.arena)
        machine.arena = static_cast<unsigned char*>(::mmap(where, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(machine.arena, arena_bytes);
#endif
    machine.used = 64;  // the first bytes are names to the thread sanitizer: of barriers, and 8 behind of what fences may show
    machine.slots.clear();
    machine.error.clear();
    machine.alive = n, machine.arrived = 0;
    machine.warps.assign((n + 31) / 32, {});
    machine.threads.assign(machine.pool.begin() + first, machine.pool.begin() + first + n);
    machine.ready.clear();
    static const char dynamic = 0;
    dynamic_shared = static_cast<unsigned char*>(shared_slot(&dynamic, shared, 128));
    for (unsigned i = 0; i < n; ++i) {
        Fiber* f = machine.threads[i];
        f->flat = i, f->lane = i % 32, f->warp = i / 32;
        f->index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        f->copies.clear(), f->group = 0;
        machine.warps[f->warp].lanes |= 1u << f->lane;
    }
    for (unsigned i = n; i-- > 0;) make_ready(machine.threads[i]);
    __tsan_release(&machine.start);
    jump(&machine.main, pick());
    if (machine.error.empty() && machine.alive) {
        for (const Fiber* f : machine.threads) {
            if (f->state == State::done) continue;
            machine.error = "deadlock: thread " + std::to_string(f->flat) + (f->state == State::at_barrier ? " waits at a barrier, " : " waits for its warp, ") +
                            f->at.file + ":" + std::to_string(f->at.line);
            break;
        }
    }
    if (!machine.error.empty()) {
        drop_pool();
        throw Error{machine.error};
    }
}

bool dropped(Site at) {
    if (options.list_sites) {
        std::size_t i = 0;
        while (i < machine.site_count && (machine.sites[i].line != at.line || machine.sites[i].file != at.file)) ++i;
        if (i == machine.site_count && i < std::size(machine.sites)) machine.sites[machine.site_count++] = at;
    }
    return options.dropped.file && options.dropped.line == at.line && !std::strcmp(options.dropped.file, at.file);
}

void perform(const Copy& copy) {
    static const unsigned char zeros[16] = {};
    const auto* from = static_cast<const unsigned char*>(copy.source ? copy.source : zeros);
    auto* to = static_cast<unsigned char*>(copy.target);
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
}

}  // namespace

std::vector<Site> sites() { return {machine.sites, machine.sites + machine.site_count}; }

void run(dim3 grid, dim3 block, std::size_t shared, const std::function<void()>& body) {
    std::lock_guard lock(machine.mutex);
    const unsigned long total = static_cast<unsigned long>(grid.x) * grid.y * grid.z, threads = static_cast<unsigned long>(block.x) * block.y * block.z;
    if (!total || !threads || threads > 1024 || grid.y > 65535 || grid.z > 65535 || shared > 99 * 1024) throw Error{"no such launch is possible"};
    std::vector<unsigned> order(total);
    for (unsigned i = 0; i < total; ++i) order[i] = i;
    machine.random_state = options.seed * 0x9E3779B97F4A7C15ull + 1;
    for (auto& p : machine.priority) p = machine.draw();
    if (machine.random())
        for (unsigned long i = total - 1; i > 0; --i) std::swap(order[i], order[machine.draw() % (i + 1)]);
    machine.body = &body;
#ifdef CUDASIM_TSAN
    machine.main.tsan = __tsan_get_current_fiber();
#endif
    for (unsigned i : order) run_block(grid, block, shared, i);
    __tsan_acquire(&machine.end);
    current = nullptr;
}

void* shared_slot(const void* key, std::size_t bytes, std::size_t align) {
    for (const auto& [known, p] : machine.slots)
        if (known == key) return p;
    unsigned char* p = take(bytes, align);
    for (std::size_t i = 0; i < bytes; ++i) {
        p[i] = 0xff;
        asm volatile("" ::: "memory");  // no memset, which sanitizers look into
    }
    machine.slots.push_back({key, p});
    return p;
}

void fail(const char* message, Site at) {
    Fiber* me = self();
    machine.error = std::string(message) + " (" + at.file + ":" + std::to_string(at.line) + ", block " + std::to_string(block_index.x) + "," +
                    std::to_string(block_index.y) + "," + std::to_string(block_index.z) + ", thread " + std::to_string(me ? me->flat : 0) + ")";
    for (;;) jump(me, &machine.main);
}

void block_barrier(Site at) {
    if (dropped(at)) return;
    Fiber* me = self();
    me->at = at;
    me->state = State::at_barrier;
    __tsan_release(machine.arena);
    if (++machine.arrived == machine.alive) release_barrier();
    park();
    __tsan_acquire(machine.arena);
}

void fence(Site at) {
    if (dropped(at)) return;
    __tsan_acquire(machine.arena + 8);
    __tsan_release(&machine.fences);
}

/// What was written before a fence is seen behind a fence of a block that has done an atomic in between, and not otherwise. The
/// atomic itself puts nothing in order for its thread, and so another one does this for it.
static void atomic_done() {
#ifdef CUDASIM_TSAN
    static void* const other = __tsan_create_fiber(0);
    __tsan_switch_to_fiber(other, 1);
    __tsan_acquire(&machine.fences);
    __tsan_release(machine.arena + 8);
    __tsan_switch_to_fiber(self()->tsan, 1);
#endif
}

const unsigned char* exchange(unsigned mask, const void* mine, unsigned bytes, Collective kind, Site at) {
    Fiber* me = self();
    Warp& warp = machine.warps[me->warp];
    if (!(mask >> me->lane & 1)) fail("a lane calls a collective whose mask leaves it out", at);
    if (mask & ~warp.lanes) fail("a collective's mask names lanes that don't exist", at);
    if (mask & warp.done) fail("a collective's mask names lanes that have ended", at);
    Meeting* m = nullptr;
    for (Meeting* known : warp.meetings)
        if (known->mask == mask) m = known;
    if (!m) {
        m = new (take(sizeof(Meeting), 64)) Meeting;
        m->mask = mask;
        warp.meetings.push_back(m);
    }
    unsigned char* slots = m->buffers[m->generation[me->lane]++ & 1];
    for (unsigned i = 0; i < bytes; ++i) slots[me->lane * slot_bytes + i] = static_cast<const unsigned char*>(mine)[i];
    if (!m->arrived) m->kind = kind, m->bytes = bytes, m->at = at;
    else if (m->kind != kind || m->bytes != bytes || m->at.line != at.line) fail("lanes of a warp meet in different collectives", at);
    __tsan_release(m);
    m->arrived |= 1u << me->lane;
    me->at = at;
    if (m->arrived == mask) {
        m->arrived = 0;
        for (unsigned i = 0; i < 32; ++i)
            if ((mask >> i & 1) && i != me->lane) make_ready(machine.threads[me->warp * 32 + i]);
        if (machine.random()) {
            make_ready(me);
            park();
        }
    } else {
        me->state = State::in_collective;
        park();
    }
    __tsan_acquire(m);
    return slots;
}

void async_copy(Copy copy, Site at) {
    if ((reinterpret_cast<std::uintptr_t>(copy.target) | reinterpret_cast<std::uintptr_t>(copy.source)) & 15) fail("a copy of 16 bytes isn't aligned", at);
    // At once, or as late as it may be.
    if (machine.random() && machine.draw() & 1) return perform(copy);
    self()->copies.push_back({self()->group, copy});
}
void async_commit() { ++self()->group; }
void async_wait(int groups_left) {
    auto& copies = self()->copies;
    for (; !copies.empty() && copies.front().first < self()->group - groups_left; copies.pop_front()) perform(copies.front().second);
}

unsigned atomic_inc(unsigned* p, unsigned limit) {
    const unsigned before = *p;
    *p = before >= limit ? 0 : before + 1;
    atomic_done();
    return before;
}
int atomic_or(int* p, int value) {
    const int before = *p;
    *p = before | value;
    atomic_done();
    return before;
}

}  // namespace cudasim
