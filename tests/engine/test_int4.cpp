// Int4 on real weights: the demo model's matrices, widened and rounded again by our rule and by plain max-abs rounding. What is
// asked is the error of the weights and, of the whole model, how far its next-token distribution moves (KL divergence).

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "engine/checkpoint/gguf_writer.h"
#include "engine/checkpoint/quantize.h"
#include "engine/loaded_model.h"
#include "tests/scratch.h"

using namespace glmd;
namespace fs = std::filesystem;

namespace {

using Quantize = bool (*)(std::span<const float>, std::byte*);

std::vector<float> floats(const GgufTensor& t) {
    std::vector<float> out(static_cast<std::size_t>(t.elements()));
    const auto cols = static_cast<std::size_t>(t.cols());
    const std::size_t bytes = row_bytes(t.type, t.cols());
    for (std::size_t r = 0; r < out.size() / cols; ++r) dequantize_row(t.type, t.data.data() + r * bytes, {out.data() + r * cols, cols});
    return out;
}

bool is_matrix(const GgufTensor& t) { return t.shape.size() == 2 && t.cols() % 32 == 0; }

/// The same model with all its matrices in Q4_0; with their squared error against the widened ones, tensor by tensor.
std::vector<double> requantize(const Gguf& from, const fs::path& to, Quantize quantize) {
    GgufWriter writer(to);
    copy_metadata(writer, from, [](std::string_view) { return false; });
    for (const GgufTensor& t : from.tensors()) writer.add_tensor(t.name, is_matrix(t) ? DType::q4_0 : DType::f32, t.shape);
    writer.write_header();
    std::vector<double> errors;
    for (const GgufTensor& t : from.tensors()) {
        const auto x = floats(t);
        if (!is_matrix(t)) {
            writer.append(std::as_bytes(std::span(x)));
            continue;
        }
        std::vector<std::byte> packed(x.size() / 32 * 18);
        REQUIRE(quantize(x, packed.data()));
        writer.append(packed);
        std::vector<float> y(x.size());
        dequantize_row(DType::q4_0, packed.data(), y);
        double error = 0;
        for (std::size_t i = 0; i < x.size(); ++i) error += (double(x[i]) - y[i]) * (double(x[i]) - y[i]);
        errors.push_back(error);
    }
    writer.finish();
    return errors;
}

std::vector<float> logits(const std::string& path, const fs::path& cache, std::span<const TokenId> ids) {
    EngineOptions o;
    o.precision = Precision::exact;
    o.context = 512;
    o.max_sequences = 64;
    o.kv_bytes = 1;
    o.cache_directory = cache;
    LoadedModel model = load_model(path, o);
    return Evaluation(model, o).feed(ids);
}

/// Mean over rows of KL(p || q), in nats.
double divergence(const std::vector<float>& p, const std::vector<float>& q, std::size_t vocabulary) {
    double sum = 0;
    const std::size_t rows = p.size() / vocabulary;
    for (std::size_t r = 0; r < rows; ++r) {
        const float *a = &p[r * vocabulary], *b = &q[r * vocabulary];
        const double top_a = *std::max_element(a, a + vocabulary), top_b = *std::max_element(b, b + vocabulary);
        double total_a = 0, total_b = 0;
        for (std::size_t i = 0; i < vocabulary; ++i) total_a += std::exp(a[i] - top_a), total_b += std::exp(b[i] - top_b);
        for (std::size_t i = 0; i < vocabulary; ++i) {
            const double log_a = a[i] - top_a - std::log(total_a), log_b = b[i] - top_b - std::log(total_b);
            sum += std::exp(log_a) * (log_a - log_b);
        }
    }
    return sum / double(rows);
}

}  // namespace

TEST_CASE("int4 on the demo model: error of the weights and of the answers, beside max-abs rounding") {
    const char* path = std::getenv("GLMD_DEMO_MODEL");
    if (!path) {
        std::cout << "skipped: GLMD_DEMO_MODEL isn't set\n";
        return;
    }
    const Scratch s;
    const Gguf demo(path);
    const auto searched = requantize(demo, s.path / "searched.gguf", quantize_q4_0);
    const auto plain = requantize(demo, s.path / "plain.gguf", quantize_q4_0_plain);
    REQUIRE(searched.size() == plain.size());
    double a = 0, b = 0, worst = 0, best = 1;
    for (std::size_t i = 0; i < plain.size(); ++i) {
        CHECK(searched[i] <= plain[i]);
        a += searched[i], b += plain[i];
        worst = std::max(worst, searched[i] / plain[i]), best = std::min(best, searched[i] / plain[i]);
    }
    std::cout << "int4 on " << plain.size() << " matrices of the demo model: mean squared error " << a / b << " of max-abs rounding's ("
              << best << " to " << worst << " by tensor)\n";
    CHECK(a / b < 0.95);

    std::ifstream file("/usr/share/common-licenses/GPL-3", std::ios::binary);
    if (!file) return;
    std::string text(8192, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    auto ids = load_tokenizer(demo)->encode(text, Specials::as_text);
    REQUIRE(ids.size() >= 256);
    ids.resize(256);
    const auto reference = logits(path, s.path / "cache", ids);
    const std::size_t vocabulary = reference.size() / ids.size();
    const double ours = divergence(reference, logits(s.path / "searched.gguf", s.path / "cache", ids), vocabulary);
    const double theirs = divergence(reference, logits(s.path / "plain.gguf", s.path / "cache", ids), vocabulary);
    std::cout << "int4 on the demo model, " << ids.size() << " tokens of text: KL divergence " << ours << " nats, with max-abs rounding " << theirs << "\n";
    CHECK(ours < theirs);
    CHECK(divergence(reference, reference, vocabulary) == Approx(0).margin(1e-9));
}
