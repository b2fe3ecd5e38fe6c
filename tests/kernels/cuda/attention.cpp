// kv_write() and attention() on the GPU against the scalar CPU: steps that hold answers and prompts of several sequences side by side.
#include "device.h"

namespace glmd::test {
namespace {

struct Setup {
    int heads, kv_heads, head_dim;
    std::vector<int> answers;          // tokens of sequences that decode one more
    std::vector<std::pair<int, int>> prompts;  // tokens, those that see each other in both directions
    int prefix = 0;
};

const Setup setups[] = {
    {4, 4, 16, {40}, {}},                            // every head its own keys
    {9, 3, 64, {70, 1, 33}, {{20, 0}}},              // SmolLM: three heads share; one prompt beside
    {32, 2, 128, {33, 100}, {{70, 0}}},              // ChatGLM2
    {7, 1, 20, {100}, {{9, 0}}},                     // odd sizes
    {4, 2, 64, {}, {{70, 50}, {5, 5}}},              // prefix-LM, two sequences in a tile
    {4, 2, 128, {30}, {{40, 40}}, 5},                // p-tuning, everything seen by everyone
    {8, 2, 36, {45, 2}, {{12, 0}}, 37},
    {40, 2, 64, {64}, {}},                           // more heads share than a block takes at once
    {3, 3, 6, {1}, {{1, 0}}},
    {2, 1, 256, {31}, {{34, 3}}},
};

Floats run(Backend& on, const Setup& s, KvType type, Gpu* gpu) {
    const int width = s.kv_heads * s.head_dim;
    std::vector<std::int32_t> sequence, slot, table, both;
    std::vector<int> lengths = s.answers;
    for (const auto& [n, b] : s.prompts) lengths.push_back(n);
    int max_blocks = 1, rows = 0, next = 0;
    for (const int n : lengths) max_blocks = std::max(max_blocks, kv_blocks_for(n)), rows += n;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        both.push_back(i < s.answers.size() ? 0 : s.prompts[i - s.answers.size()].second);
        for (int b = 0; b < max_blocks; ++b) table.push_back(next++);
    }
    std::reverse(table.begin(), table.end());
    const auto pool = on.make_kv_pool({2, s.kv_heads, s.head_dim, type}, next);
    const std::vector<std::byte> noise(pool->shape().block_bytes(), std::byte(0xff));  // what others left behind
    for (int b = 0; b < next; ++b) on.kv_import(*pool, b, noise);

    Floats k = random_floats(std::size_t(rows * width), 1), v = random_floats(std::size_t(rows * width), 2);
    const Floats prefix_k = random_floats(std::size_t(s.prefix * width), 4), prefix_v = random_floats(std::size_t(s.prefix * width), 5);
    for (std::size_t i = 0; i < lengths.size(); ++i)
        for (int t = 0; t < lengths[i]; ++t) sequence.push_back(int(i)), slot.push_back(t);
    StepTables all;
    all.rows = rows, all.sequences = int(lengths.size()), all.max_blocks = max_blocks;
    all.sequence = sequence.data(), all.slot = slot.data(), all.block_tables = table.data(), all.bidirectional = both.data();
    on.kv_write(*pool, 1, gpu ? gpu->put(k, width) : activations(k, width), gpu ? gpu->put(v, width) : activations(v, width), gpu ? gpu->step(all) : all);

    // The step: the last token of each answer, and all of each prompt.
    std::vector<std::int32_t> step_sequence, step_slot;
    for (std::size_t i = 0; i < lengths.size(); ++i)
        for (int t = i < s.answers.size() ? lengths[i] - 1 : 0; t < lengths[i]; ++t) step_sequence.push_back(int(i)), step_slot.push_back(t);
    StepTables step = all;
    step.rows = int(step_slot.size()), step.sequence = step_sequence.data(), step.slot = step_slot.data(), step.single_rows = int(s.answers.size());
    Floats q = random_floats(std::size_t(step.rows * s.heads * s.head_dim), 3), out(q.size(), NAN);
    if (!gpu) {
        on.attention(activations(out, s.heads * s.head_dim), activations(q, s.heads * s.head_dim), *pool, 1, step, 0.3f, {s.prefix, prefix_k.data(), prefix_v.data()});
        return out;
    }
    const Activations result = gpu->room(step.rows, s.heads * s.head_dim), query = gpu->put(q, s.heads * s.head_dim);
    const AttentionPrefix prefix{s.prefix, gpu->put(prefix_k), gpu->put(prefix_v)};
    const StepTables tables = gpu->step(step);
    on.attention(result, query, *pool, 1, tables, 0.3f, prefix);
    out = gpu->get(result);
    on.attention(result, query, *pool, 1, tables, 0.3f, prefix);  // the tickets are as they were
    CHECK(same_bits(gpu->get(result), out));
    return out;
}

}  // namespace

TEST_CASE("cuda: attention", "[cudasim]") {
    each_schedule([] {
        for (const Setup& s : setups)
            for (const KvType type : {KvType::f32, KvType::f16, KvType::i8}) {
                INFO(s.heads << " heads " << s.head_dim << " " << name(type));
                Gpu gpu;
                // Tensor cores round queries and weights to halves.
                const bool tensor = type != KvType::f32 && !s.prompts.empty() && (s.head_dim == 64 || s.head_dim == 128);
                CHECK(difference(run(*gpu, s, type, &gpu), run(*backend("scalar", 1), s, type, nullptr)) < (tensor ? 3e-3 : 2e-5));
            }
    });
}

TEST_CASE("cuda: blocks are copied, exported and imported whole", "[cudasim]") {
    Gpu gpu;
    const auto pool = gpu->make_kv_pool({3, 2, 8, KvType::i8}, 3);
    const std::size_t bytes = pool->shape().block_bytes();
    std::vector<std::byte> in(bytes), out(bytes), zero(bytes);
    for (std::size_t i = 0; i < bytes; ++i) in[i] = std::byte(i * 7 % 251);
    gpu->kv_import(*pool, 1, in);
    gpu->kv_copy(*pool, 1, 2);
    gpu->kv_export(*pool, 2, out);
    CHECK(in == out);
    gpu->kv_export(*pool, 0, out);
    CHECK(out == zero);
    CHECK_THROWS_AS(gpu->kv_export(*pool, 3, out), BackendError);
}

TEST_CASE("cuda: a block outside the pool is an error of the next download", "[cudasim]") {
    Gpu gpu;
    const auto pool = gpu->make_kv_pool({1, 1, 16, KvType::f16}, 2);
    const std::int32_t sequence = 0, slot = 0, bad_slot = 32, block = 0, bad_block = 2;
    const Activations k = gpu.put(random_floats(16, 1), 16), out = gpu.room(1, 16);
    for (const auto& [s, b] : {std::pair{&slot, &bad_block}, std::pair{&bad_slot, &block}}) {
        for (const int single : {0, 1}) {
            StepTables step{1, 1, 1, &sequence, s, b, nullptr, single};
            step = gpu.step(step);
            gpu->kv_write(*pool, 0, k, k, step);
            CHECK_THROWS_AS(gpu.get(out), BackendError);
            gpu->attention(out, k, *pool, 0, step, 1, {});
            CHECK_THROWS_AS(gpu.get(out), BackendError);
        }
    }
    CHECK_THROWS_AS(gpu->attention(gpu.room(1, 320), gpu.room(1, 320), *gpu->make_kv_pool({1, 1, 320, KvType::f16}, 1), 0,
                                   gpu.step({1, 1, 1, &sequence, &slot, &block, nullptr, 1}), 1, {}), BackendError);
}

}  // namespace glmd::test
