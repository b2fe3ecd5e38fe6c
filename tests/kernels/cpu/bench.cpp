// bench_kernels [threads] [isa] [cpu]: GEMV bandwidth, GEMM throughput, attention, the cost of an empty parallel loop, and one
// decode step shaped like SmolLM-135M. Not a test: nothing here fails.
// With "cpu" it counts processor time per thread instead of wall time: less wrong on a busy machine.
#include <time.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

using namespace glmd;

namespace {

double (*now)();

double wall_time() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double thread_time() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

double best_of(int rounds, const std::function<void()>& f) {
    double best = 1e9;
    for (int i = 0; i < rounds; ++i) {
        const double start = now();
        f();
        best = std::min(best, now() - start);
    }
    return best;
}

struct Weight {
    Weight(Backend& cpu, PackFormat format, std::int64_t rows, std::int64_t cols)
        : memory(cpu.allocate(cpu.packed_bytes(format, rows, cols))) {
        auto* p = static_cast<unsigned char*>(memory->data());
        for (std::size_t i = 0; i < memory->bytes(); ++i) p[i] = (unsigned char)(0x21 + i % 7);
        matrix = {format, rows, cols, static_cast<const std::byte*>(memory->data()), memory->bytes()};
    }
    std::unique_ptr<Buffer> memory;
    Matrix matrix;
};

}  // namespace

int main(int argc, char** argv) {
    const auto cpu = make_cpu_backend({argc > 1 ? std::atoi(argv[1]) : 0, argc > 2 ? argv[2] : ""});
    now = argc > 3 ? thread_time : wall_time;
    std::printf("%s\n", cpu->description().c_str());
    std::vector<float> x(1 << 22, 0.5f), y(1 << 24);
    const std::pair<const char*, PackFormat> formats[] = {{"f16", PackFormat::f16}, {"q8", PackFormat::q8}, {"q4", PackFormat::q4}, {"q4m", PackFormat::q4m}, {"q8m", PackFormat::q8m}};
    for (auto [name, format] : formats) {
        const std::int64_t rows = format == PackFormat::f16 ? 16384 : 65536, cols = 4096;
        Weight w(*cpu, format, rows, cols);
        for (Precision p : {Precision::fast, Precision::fine, Precision::exact}) {
            const double t = best_of(5, [&] { cpu->linear({y.data(), 1, rows}, {x.data(), 1, cols}, w.matrix, {}, p); });
            std::printf("gemv %-4s %-5s %6.1f GB/s\n", name, glmd::name(p), double(w.matrix.bytes) / t / 1e9);
        }
        Matrix part = w.matrix;
        part.rows = 4096;
        for (Precision p : {Precision::fast, Precision::fine, Precision::exact}) {
            for (std::int64_t n : {4, 16, 256}) {
                const double t = best_of(3, [&] { cpu->linear({y.data(), n, 4096}, {x.data(), n, cols}, part, {}, p); });
                std::printf("gemm %-4s %-5s n=%-4d %6.1f GMAC/s\n", name, glmd::name(p), int(n), double(n) * 4096 * 4096 / t / 1e9);
            }
        }
    }
    {
        ThreadPool pool(2);
        const double t = best_of(5, [&] { for (int i = 0; i < 1000; ++i) pool.run(8, [](int) {}); });
        std::printf("empty loop of 8 chunks, 2 threads: %.2f us\n", t * 1e3);
    }
    for (auto [heads, kv_heads, dim] : {std::array{9, 3, 64}, std::array{32, 2, 128}, std::array{32, 32, 128}}) {
        const int context = 2048, blocks = context / 32;
        const auto pool = cpu->make_kv_pool({1, kv_heads, dim, KvType::f16}, blocks);
        std::vector<std::int32_t> table, sequence(256, 0), slot(256, context - 1);
        for (int b = 0; b < blocks; ++b) table.push_back(b);
        for (int rows : {1, 256}) {
            const StepTables step{rows, 1, blocks, sequence.data(), slot.data(), table.data(), nullptr};
            const double t = best_of(5, [&] { cpu->attention({y.data(), rows, heads * dim}, {x.data(), rows, heads * dim}, *pool, 0, step, 0.1f, {}); });
            std::printf("attention %d/%d heads of %d, 2048 keys, %3d rows: %8.1f us, %.1f GMAC/s\n", heads, kv_heads, dim, rows, t * 1e6,
                        2.0 * rows * heads * dim * context / t / 1e9);
        }
    }
    {
        const int hidden = 576, ffn = 1536, vocab = 49152, layers = 30, heads = 9, kv_heads = 3, dim = 64, context = 256;
        struct Layer { Weight qkv, o, up, down; };
        std::vector<Layer> stack;
        for (int i = 0; i < layers; ++i) {
            stack.push_back({{*cpu, PackFormat::q4m, 960, hidden}, {*cpu, PackFormat::q4m, hidden, hidden},
                             {*cpu, PackFormat::q4m, 2 * ffn, hidden}, {*cpu, PackFormat::q4m, hidden, ffn}});
        }
        Weight head(*cpu, PackFormat::q8, vocab, hidden);
        const auto pool = cpu->make_kv_pool({layers, kv_heads, dim, KvType::f16}, 8);
        const std::vector<std::int32_t> table{0, 1, 2, 3, 4, 5, 6, 7}, sequence(256, 0), position(256, 10), slot(256, context - 1);
        std::vector<float> norm(hidden, 1.0f), cosines(4096 * 64, 0.7f);
        for (Precision precision : {Precision::fast, Precision::fine, Precision::exact}) for (int n : {1, 16, 256}) {
            const StepTables step{n, 1, 8, sequence.data(), slot.data(), table.data(), nullptr};
            std::vector<float> h(n * hidden, 0.3f), a(n * hidden), qkv(n * 960), q(n * 576), k(n * 192), v(n * 192), up(n * 2 * ffn), act(n * ffn), logits(vocab), value(1);
            std::vector<std::int32_t> id(1);
            const Activations ah{h.data(), n, hidden}, aa{a.data(), n, hidden}, aqkv{qkv.data(), n, 960}, aq{q.data(), n, 576},
                ak{k.data(), n, 192}, av{v.data(), n, 192}, aup{up.data(), n, 2 * ffn}, aact{act.data(), n, ffn};
            const Vector weight{norm.data(), hidden};
            const Rotary rotary{0, 64, RotaryPairing::half, cosines.data(), 4096};
            const double t = best_of(20, [&] {
                for (int l = 0; l < layers; ++l) {
                    const Layer& layer = stack[l];
                    cpu->rms_norm(aa, ah, weight, 1e-5f);
                    cpu->linear(aqkv, aa, layer.qkv.matrix, {}, precision);
                    cpu->take_columns(aq, aqkv, 0);
                    cpu->take_columns(ak, aqkv, 576);
                    cpu->take_columns(av, aqkv, 768);
                    cpu->rotary(aq, dim, rotary, position.data());
                    cpu->rotary(ak, dim, rotary, position.data());
                    cpu->kv_write(*pool, l, ak, av, step);
                    cpu->attention({a.data(), n, heads * dim}, aq, *pool, l, step, 0.125f, {});
                    cpu->linear(aq, aa, layer.o.matrix, {}, precision);
                    cpu->residual(ah, ah, 1, aq);
                    cpu->rms_norm(aa, ah, weight, 1e-5f);
                    cpu->linear(aup, aa, layer.up.matrix, {}, precision);
                    cpu->activation(aact, aup, Function::silu, Gate::first);
                    cpu->linear(aq, aact, layer.down.matrix, {}, precision);
                    cpu->residual(ah, ah, 1, aq);
                }
                cpu->linear({logits.data(), 1, vocab}, ah.slice(0, 1), head.matrix, {}, precision);
                cpu->top_k({logits.data(), 1, vocab}, 1, id.data(), value.data());
            });
            std::printf("SmolLM-135M shaped step, %s, %3d rows, 256 keys: %.2f ms, %.0f tok/s\n", glmd::name(precision), n, t * 1e3, n / t);
        }
    }
}
