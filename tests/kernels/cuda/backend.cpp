// What the GPU's backend owes besides arithmetic: host memory is its caller's again on return, recorded steps are steps, running out of
// memory says so, and a lost device is told from a mistake.
#include "device.h"

namespace glmd::test {

namespace {

struct Reset {  // whatever a case did to the emulated device
    ~Reset() {
        control()->fail(0, 0);
        control()->memory(std::size_t(4) << 30);
        control()->seed(0);
        control()->device(870, false, false);
    }
};

std::string message_of(const std::function<void()>& f) {
    try {
        f();
    } catch (const std::exception& e) {
        return e.what();
    }
    return "";
}

}  // namespace

TEST_CASE("cuda: an upload's source may change at once, however late the stream reads", "[cudasim]") {
    Gpu gpu;
    for (const std::size_t count : {std::size_t(5), std::size_t(3) << 20, std::size_t(7) << 20}) {  // up to 28 MB: pieces take turns
        std::vector<std::int32_t> host(count);
        for (std::size_t i = 0; i < count; ++i) host[i] = std::int32_t(i * 2654435761u);
        const std::vector<std::int32_t> before = host;
        std::int32_t* device = gpu.put(host);
        std::int32_t* small = gpu.put(host.data(), 1);
        std::fill(host.begin(), host.end(), -1);
        gpu.put(host.data(), 1);
        CHECK(gpu.get(device, count) == before);
        CHECK(gpu.get(small, 1)[0] == before[0]);
    }
}

TEST_CASE("cuda: a recorded step reads its buffers anew, waits once and allocates nothing", "[cudasim]") {
    Gpu gpu;
    const auto cpu = backend("scalar", 1);
    const std::int64_t cols = 128, outputs = 32, rows = 3;
    const auto stored = random_stored(DType::q4_0, outputs, cols, 1);
    const Matrix w = gpu.matrix(DType::q4_0, stored, outputs, cols);
    const PackFormat format = cpu->pack_format(DType::q4_0);
    std::vector<std::byte> packed(cpu->packed_bytes(format, outputs, cols));
    cpu->pack(DType::q4_0, stored.data(), outputs, cols, packed);
    const Floats weight = random_floats(std::size_t(cols), 9);
    const Activations x = gpu.room(rows, cols), norm = gpu.room(rows, cols), y = gpu.room(rows, outputs);
    const Vector norm_weight = gpu.vector(weight);
    int ran = 0;
    const auto step = [&] {
        ++ran;
        gpu->rms_norm(norm, x, norm_weight, 1e-5f);
        gpu->linear(y, norm, w, {}, Precision::fast);
    };
    for (int i = 0; i < 6; ++i) {
        Floats in = random_floats(std::size_t(rows * cols), unsigned(20 + i)), normed(in.size()), expected(std::size_t(rows * outputs));
        cpu->rms_norm(activations(normed, cols), activations(in, cols), vector(weight), 1e-5f);
        cpu->linear(activations(expected, outputs), activations(normed, cols), {format, outputs, cols, packed.data(), packed.size()}, {}, Precision::fast);
        const CudasimControl* c = control();
        const std::uint64_t waits = c ? c->synchronizations() : 0, calls = c ? c->calls() : 0, graphs = c ? c->graph_launches() : 0;
        const std::size_t memory = c ? c->allocated() : 0;
        gpu->upload(x.data, in.data(), in.size() * sizeof(float));
        gpu->run_recorded(7, step);
        CHECK(difference(gpu.get(y), expected) <= 1e-5);
        if (!c) continue;
        CHECK(c->synchronizations() - waits == (i == 0 ? 2 : 1));  // at first scratch memory grows
        CHECK(c->graph_launches() - graphs == (i == 0 ? 0 : 1));
        if (i > 0) CHECK(c->allocated() == memory);
        if (i > 1) CHECK(c->calls() - calls <= 8);  // however many operations there are
    }
    CHECK(ran == 2);  // once as it is, once recorded

    // What needs more scratch memory moves it: the step is recorded anew.
    const Activations many = gpu.put(random_floats(std::size_t(600 * cols), 3), cols), out = gpu.room(600, outputs);
    gpu->linear(out, many, w, {}, Precision::fine);
    const Floats before = gpu.get(y);
    for (int i = 0; i < 3; ++i) {
        gpu->run_recorded(7, step);
        CHECK(same_bits(gpu.get(y), before));
    }
    CHECK(ran == 4);
}

TEST_CASE("cuda: an operation that fails while it is recorded leaves nothing behind", "[cudasim]") {
    Gpu gpu;
    const Activations x = gpu.put(random_floats(64, 1), 64), y = gpu.room(1, 64);
    int ran = 0;
    const auto step = [&] {
        gpu->residual(y, x, 1, x);
        if (++ran == 2) throw BackendError("in the middle");
    };
    gpu->run_recorded(1, step);
    CHECK_THROWS_AS(gpu->run_recorded(1, step), BackendError);
    for (int i = 0; i < 3; ++i) gpu->run_recorded(1, step);
    CHECK(gpu.get(y)[5] == 2 * gpu.get(x)[5]);
    CHECK(ran == 3);
}

TEST_CASE("cuda: too little memory is said with the word that the API has for it", "[cudasim]") {
    if (!control()) return;
    const Reset reset;
    control()->memory(std::size_t(64) << 20);
    Gpu gpu;
    CHECK(message_of([&] { gpu->allocate(std::size_t(100) << 20); }).find("insufficient memory: 100 MiB") == 0);
    CHECK(message_of([&] { gpu->make_kv_pool({30, 32, 128, KvType::f16}, 100); }).find("insufficient memory: ") == 0);
    const Activations x = gpu.put(Floats(64, 1.0f), 64), y = gpu.room(1, 64);  // and goes on
    gpu->residual(y, x, 1, x);
    CHECK(gpu.get(y)[0] == 2);
    const auto budget = gpu->memory_budget();
    REQUIRE(budget);
    CHECK(*budget < std::size_t(64) << 20);
    control()->device(870, true, false);
    CHECK_FALSE(Gpu()->memory_budget());  // main memory's, which the engine knows
    CHECK_FALSE(Gpu()->reads_host_memory());
    control()->device(1100, true, true);
    CHECK(Gpu()->reads_host_memory());
    control()->device(700, false, false);
    CHECK(message_of([] { Gpu gpu; }).find("needs sm_75") != std::string::npos);
}

TEST_CASE("cuda: a fault of the device at any call is DeviceLost, and stays", "[cudasim]") {
    if (!control()) return;
    const auto work = [](Gpu& gpu) {
        const Activations x = gpu.put(random_floats(128, 1), 128), y = gpu.room(1, 128);
        const Matrix w = gpu.matrix(DType::q4_0, random_stored(DType::q4_0, 128, 128, 1), 128, 128);
        for (int i = 0; i < 3; ++i) {
            gpu->run_recorded(1, [&] {
                gpu->rms_norm(x, x, {x.data, 128}, 1e-5f);
                gpu->linear(y, x, w, {}, Precision::fast);
            });
            gpu.get(y);
        }
    };
    int lost = 0, fine = 0;
    for (int call = 1; fine == 0; ++call) {
        const Reset reset;
        Gpu gpu;
        control()->fail(call, 719);
        try {
            work(gpu);
            ++fine;
        } catch (const DeviceLost& e) {
            ++lost;
            INFO(e.what());
            CHECK(std::string(e.what()).find("unspecified launch failure") != std::string::npos);
            Floats nothing(1);
            CHECK_THROWS_AS(gpu->download(nothing.data(), nullptr, 0), DeviceLost);
        }
    }
    CHECK(lost > 30);
}

TEST_CASE("cuda: what can't be used is said in a sentence", "[cudasim]") {
    CHECK(message_of([] { make_cuda_backend({0, "/nowhere/libglmd_cuda.so"}); }).find("the CUDA plugin can't be opened") == 0);
    CHECK(message_of([] { make_cuda_backend({3, plugin()}); }) == "there is no CUDA device 3, only 1");
    const auto devices = cuda_devices({0, plugin()});
    REQUIRE(devices.size() == 1);
    CHECK(devices[0].memory > 0);
    CHECK(devices[0].compute >= 75);
    // The real plugin, where it was built: on a machine without a GPU it says so.
    const std::string found = message_of([] { cuda_devices(); });
    INFO(found);
    CHECK((found.empty() || found.find("NVIDIA") != std::string::npos || found.find("CUDA") != std::string::npos));
}

}  // namespace glmd::test
