// What a figure says of known samples; on models, that bytes and multiplications are what their shapes say.
#include "engine/bench.h"

#include "engine/memory_plan.h"
#include "tests/engine/golden.h"

using namespace glmd;
using namespace glmd::golden;

TEST_CASE("bench: medians, shares and limits") {
    CHECK(Spread::of({3, 1, 2}).median == 2);
    CHECK(Spread::of({4, 1, 2, 3}).median == 2.5);
    CHECK(Spread::of({4, 1}).least == 1);
    CHECK(Spread::of({4, 1}).most == 4);
    // 10 bytes and 28 multiplications a step; memory needs 1 s, the processor 4 s or, as far as it can be reached, 40/7.
    const BenchFigure f{BenchKind::step, 2, 2, 10, 28, {{8, 10, 7, 0.5}}};
    CHECK(f.rate().median == Approx(0.25));
    CHECK(f.bandwidth_share().median == Approx(1.0 / 8));
    CHECK(f.int8_share().median == Approx(0.5));
    CHECK(f.over_limit().median == Approx(8 / (28 / 4.9)));
}

TEST_CASE("bench: every kind of model is measured") {
    if (!golden_is_there()) return;
    const Source sources[] = {{"chatglm3", "cases.json", "fp16", ""}, {"chatglm1", "cases.json", "fp16", ""}, {"glm", "cases.json", "hf", ""}};
    for (const Source& source : sources) {
        INFO(name_of(source));
        const Scratch s;
        const std::string file = converted(source, OutputType::f32, s);
        const ModelShape shape = shape_of(Gguf(file));
        EngineOptions engine;
        engine.cache_directory = s.file("cache");
        engine.cpu.threads = 2;
        int told = 0;
        BenchOptions options{{5, 40, 1 << 20}, {6}, {}, 3, 2, [&](const std::string&) { ++told; }};
        const BenchReport r = run_bench(file, engine, options);
        REQUIRE(r.figures.size() == 3);
        CHECK(told > 0);
        CHECK(r.left_out == std::vector<std::string>{"prompt 1048576"});
        CHECK(r.threads == 2);
        CHECK(r.load_s.median > 0);
        CHECK(r.peak_bytes > 0);
        for (const BenchFigure& f : r.figures) {
            CHECK(f.samples.size() == 2);
            CHECK(f.seconds().least > 0);
        }
        CHECK(r.kv_token_bytes == 2.0 * shape.layers * shape.kv_heads * shape.head_dim * 2);
        const double head = double(shape.vocabulary) * shape.hidden;
        CHECK(r.figures[2].macs == r.weight_macs);
        CHECK(r.figures[0].macs == Approx(5 * (r.weight_macs - head) + head));
        CHECK(r.figures[2].bytes == Approx(r.weight_bytes + (6 + 2) * r.kv_token_bytes));
        CHECK(r.weight_bytes >= 4 * r.weight_macs);  // f32
        CHECK(r.weight_bytes < 4 * double(shape.parameters) * 1.3);
    }
}

TEST_CASE("bench: whoever is told may stop it") {
    if (!golden_is_there()) return;
    const Scratch s;
    EngineOptions engine;
    engine.cache_directory = s.file("cache");
    const BenchOptions options{{5}, {}, {}, 1, 1, [](const std::string& what) {
        if (what != "loading") throw ModelError("stopped");
    }};
    CHECK_THROWS_WITH(run_bench(converted({"chatglm3", "cases.json", "fp16", ""}, OutputType::int4, s), engine, options), "stopped");
}
