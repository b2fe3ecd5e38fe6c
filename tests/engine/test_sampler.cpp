#include "engine/sampler.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <map>

using namespace glmd;

namespace {
SamplingOptions options(float temperature, float top_p, int top_k, std::uint64_t seed = 7) {
    SamplingOptions o;
    o.temperature = temperature, o.top_p = top_p, o.top_k = top_k, o.seed = seed;
    return o;
}
}  // namespace

TEST_CASE("temperature 0 takes the largest logit, the first of equals") {
    Sampler s(options(0, 1, 0));
    CHECK(s.sample(std::vector<float>{1, 3, 2, 3}) == 1);
}

TEST_CASE("a seed reproduces a sequence of draws") {
    std::vector<float> logits(100);
    for (int i = 0; i < 100; ++i) logits[i] = std::sin(i * 1.7f) * 2;
    Sampler a(options(1, 0.9f, 0, 42)), b(options(1, 0.9f, 0, 42)), c(options(1, 0.9f, 0, 43));
    std::vector<TokenId> x, y, z;
    for (int i = 0; i < 50; ++i) x.push_back(a.sample(logits)), y.push_back(b.sample(logits)), z.push_back(c.sample(logits));
    CHECK(x == y);
    CHECK(x != z);
}

TEST_CASE("draws follow the softmax with temperature, cut by top_k and top_p") {
    const std::vector<float> logits{2, 1, 0, -1};
    const float temperature = 0.7f;
    auto draw = [&](float top_p, int top_k) {
        Sampler s(options(temperature, top_p, top_k));
        std::map<TokenId, int> n;
        for (int i = 0; i < 40000; ++i) ++n[s.sample(logits)];
        return n;
    };
    auto probabilities = [&](int kept) {
        std::vector<double> p;
        double sum = 0;
        for (int i = 0; i < kept; ++i) p.push_back(std::exp(logits[i] / temperature)), sum += p.back();
        for (double& x : p) x /= sum;
        return p;
    };
    for (auto [top_p, top_k, kept] : {std::tuple{1.0f, 0, 4}, {1.0f, 2, 2}, {0.9f, 0, 2}, {0.5f, 0, 1}}) {
        const auto counts = draw(top_p, top_k);
        const auto p = probabilities(kept);
        CHECK(counts.size() == std::size_t(kept));
        for (int i = 0; i < kept; ++i) CHECK(counts.at(i) / 40000.0 == Approx(p[i]).margin(0.012));
    }
}
