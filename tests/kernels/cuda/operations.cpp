// The small operations on the GPU against the scalar CPU.
#include <limits>

#include "device.h"

namespace glmd::test {
namespace {

/// Both backends' results of one in-place or out-of-place operation.
template <class F>
void compare(const Floats& input, std::int64_t cols, std::int64_t out_cols, double tolerance, const F& f) {
    Gpu gpu;
    const auto cpu = backend("scalar", 1);
    const std::int64_t rows = std::int64_t(input.size()) / cols;
    Floats x = input, expected(std::size_t(rows * out_cols), NAN);
    f(*cpu, activations(expected, out_cols), activations(x, cols), [](const Floats& v) { return vector(v); });
    const Activations in = gpu.put(input, cols), out = gpu.room(rows, out_cols);
    f(*gpu, out, in, [&](const Floats& v) { return gpu.vector(v); });
    CHECK(difference(gpu.get(out), expected) <= tolerance);
}

}  // namespace

TEST_CASE("cuda: norms", "[cudasim]") {
    each_schedule([] {
        for (const int n : {1, 48, 257, 1000}) {
            const Floats x = random_floats(std::size_t(3 * n), 1, 5), w = random_floats(std::size_t(n), 2), b = random_floats(std::size_t(n), 3);
            compare(x, n, n, 1e-6, [&](Backend& on, Activations out, Activations in, auto v) { on.rms_norm(out, in, v(w), 1e-5f); });
            if (n > 1) compare(x, n, n, 2e-6, [&](Backend& on, Activations out, Activations in, auto v) { on.layer_norm(out, in, v(w), v(b), 1e-5f); });
            compare(x, n, n, 2e-6, [&](Backend& on, Activations out, Activations in, auto v) { on.layer_norm(out, in, v(w), {}, 1e-5f); });
            // In place.
            compare(x, n, n, 1e-6, [&](Backend& on, Activations out, Activations in, auto v) { on.rms_norm(in, in, v(w), 1e-5f); on.take_columns(out, in, 0); });
        }
    });
}

TEST_CASE("cuda: residual, activations, columns", "[cudasim]") {
    each_schedule([] {
        const Floats x = random_floats(5 * 60, 1, 2);
        compare(x, 60, 60, 1e-6, [](Backend& on, Activations out, Activations in, auto) { on.residual(out, in, 1.5f, in); });
        for (const Function f : {Function::silu, Function::gelu_tanh, Function::gelu_erf}) {
            compare(x, 60, 60, 1e-6, [&](Backend& on, Activations out, Activations in, auto) { on.activation(out, in, f, Gate::none); });
            for (const Gate gate : {Gate::first, Gate::second})
                compare(x, 60, 30, 1e-6, [&](Backend& on, Activations out, Activations in, auto) { on.activation(out, in, f, gate); });
        }
        compare(x, 60, 20, 0, [](Backend& on, Activations out, Activations in, auto) { on.take_columns(out, in, 40); });
        compare(x, 20, 20, 0, [](Backend& on, Activations out, Activations in, auto) {
            on.take_columns(out, in, 0);
            on.put_columns(out, {in.data, in.rows, 7}, 13);
        });
    });
}

TEST_CASE("cuda: rotary", "[cudasim]") {
    each_schedule([] {
        const Floats x = random_floats(4 * 3 * 16, 1), table = random_floats(10 * 6, 2);
        const std::vector<std::int32_t> positions{9, 0, 4, 4};
        for (const RotaryPairing pairing : {RotaryPairing::half, RotaryPairing::interleaved}) {
            Gpu gpu;
            Floats expected = x;
            backend("scalar", 1)->rotary(activations(expected, 48), 16, {4, 6, pairing, table.data(), 10}, positions.data());
            const Activations in = gpu.put(x, 48);
            gpu->rotary(in, 16, {4, 6, pairing, gpu.put(table), 10}, gpu.put(positions));
            CHECK(difference(gpu.get(in), expected) <= 1e-6);
        }
    });
}

TEST_CASE("cuda: embedding and positions of every type, gathered rows", "[cudasim]") {
    each_schedule([] {
        const std::vector<std::int32_t> ids{19, 0, 17, 19};
        for (const DType type : all_types) {
            INFO(traits(type).name);
            const std::int64_t cols = std::max(traits(type).block, 64), out_cols = traits(type).block == 32 ? cols - 7 : cols;
            const auto stored = random_stored(type, 20, cols, 5);
            Gpu gpu;
            const Matrix table = gpu.matrix(type, stored, 20, cols);
            const Activations out = gpu.room(4, out_cols), gathered = gpu.room(2, out_cols);
            const std::int32_t* on_gpu = gpu.put(ids);
            gpu->embedding(out, table, on_gpu);
            if (out_cols == cols) gpu->add_positions(out, table, on_gpu);
            gpu->gather_rows(gathered, out, gpu.put(std::vector<std::int32_t>{2, 1}));
            Floats row(static_cast<std::size_t>(cols)), expected;
            for (const std::int32_t id : ids) {
                dequantize_row(type, stored.data() + std::size_t(id) * row_bytes(type, cols), row);
                for (std::int64_t c = 0; c < out_cols; ++c) expected.push_back(row[std::size_t(c)] * (out_cols == cols ? 2 : 1));
            }
            // Scales of K-quants are rounded to half, as on the CPU.
            CHECK(difference(gpu.get(out), expected) <= (type == DType::q4_k || type == DType::q6_k ? 1e-3 : 1e-6));
            const Floats all = gpu.get(out), two = gpu.get(gathered);
            CHECK(Floats(all.begin() + 2 * out_cols, all.begin() + 3 * out_cols) == Floats(two.begin(), two.begin() + out_cols));
            CHECK(Floats(all.begin() + out_cols, all.begin() + 2 * out_cols) == Floats(two.begin() + out_cols, two.end()));
        }
    });
}

TEST_CASE("cuda: top_k is sorted, the lower index first among equals", "[cudasim]") {
    each_schedule([] {
        Gpu gpu;
        Floats x = random_floats(2 * 1000, 7);
        x[3] = NAN, x[10] = x[500] = x[999] = 9, x[1000] = -std::numeric_limits<float>::infinity();
        std::vector<std::int32_t> expected(2 * 40), ids(2 * 40);
        Floats values(2 * 40);
        backend("scalar", 1)->top_k(activations(x, 1000), 40, expected.data(), values.data());
        std::int32_t* out = gpu.put(ids);
        const Activations top = gpu.room(2, 40);
        gpu->top_k(gpu.put(x, 1000), 40, out, top.data);
        CHECK(gpu.get(out, 80) == expected);
        CHECK(same_bits(gpu.get(top), values));
    });
}

TEST_CASE("cuda: what the device finds out of range is an error of the next download, and nothing else breaks", "[cudasim]") {
    Gpu gpu;
    const auto stored = random_stored(DType::f32, 8, 4, 5);
    const Matrix table = gpu.matrix(DType::f32, stored, 8, 4);
    const Activations out = gpu.room(1, 4);
    for (const std::int32_t bad : {8, -1, 1 << 30}) {
        gpu->embedding(out, table, gpu.put(std::vector<std::int32_t>{bad}));
        CHECK_THROWS_AS(gpu.get(out), BackendError);
        gpu->embedding(out, table, gpu.put(std::vector<std::int32_t>{7}));
        CHECK(gpu.get(out).size() == 4);
        Activations x = gpu.put(Floats(4), 4);
        gpu->rotary(x, 4, {0, 4, RotaryPairing::half, gpu.put(Floats(32)), 8}, gpu.put(std::vector<std::int32_t>{bad}));
        CHECK_THROWS_AS(gpu.get(x), BackendError);
        gpu->gather_rows(out, x, gpu.put(std::vector<std::int32_t>{bad}));
        CHECK_THROWS_AS(gpu.get(out), BackendError);
    }
}

}  // namespace glmd::test
