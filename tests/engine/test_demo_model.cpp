// The demo model against a float64 evaluation of its weights (tests/data/smollm2): ids, logits, perplexity, in all
// precisions, on every instruction set of this machine that is worth the time.
#include <boost/json.hpp>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>

#include "engine/loaded_model.h"

using namespace glmd;
namespace json = boost::json;

namespace {

std::string slurp(const std::string& path) {
    std::ifstream f(path, std::ios::binary);
    REQUIRE(f);
    return {std::istreambuf_iterator<char>(f), {}};
}

const std::string data = GLMD_TEST_DATA "/smollm2";

EngineOptions options(Precision precision, const std::string& isa = {}) {
    EngineOptions o;
    o.precision = precision;
    o.context = 1024;
    o.max_sequences = 64;
    o.kv_bytes = 1;  // one context
    o.cpu.isa = isa;
    o.cache_directory = std::filesystem::temp_directory_path() / "glmd-test-cache";
    return o;
}

const char* demo_model() {
    const char* path = std::getenv("GLMD_DEMO_MODEL");
    if (!path) std::cout << "skipped: GLMD_DEMO_MODEL isn't set\n";
    return path;
}

std::vector<TokenId> ids_of(const json::value& v) {
    std::vector<TokenId> ids;
    for (const auto& x : v.as_array()) ids.push_back(static_cast<TokenId>(x.as_int64()));
    return ids;
}

double cosine(const float* a, const float* b, std::size_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (std::size_t i = 0; i < n; ++i) ab += double(a[i]) * b[i], aa += double(a[i]) * a[i], bb += double(b[i]) * b[i];
    return ab / std::sqrt(aa * bb);
}

}  // namespace

TEST_CASE("demo model: logits at the prompts' ends and greedy ids") {
    const char* path = demo_model();
    if (!path) return;
    const json::value reference = json::parse(slurp(data + "/exact.json"));
    for (const std::string& isa : cpu_instruction_sets()) {
        for (const Precision precision : {Precision::exact, Precision::fine, Precision::fast}) {
            const EngineOptions o = options(precision, isa);
            LoadedModel model = load_model(path, o);
            const std::size_t vocabulary = model.info.vocabulary;
            const auto& items = reference.at("items").as_array();
            const std::size_t prompts = isa == "scalar" ? 1 : items.size();
            double worst = 1;
            for (std::size_t p = 0; p < prompts; ++p) {
                const std::string text = items[p].at("prompt").as_string().c_str();
                const auto prompt = ids_of(items[p].at("prompt_ids"));
                const std::vector<ChatMessage> chat{{"user", text}};
                CHECK(model.chat_template->render(chat, *model.tokenizer) == prompt);

                Evaluation run(model, o);
                std::vector<float> logits = run.feed(prompt);
                const std::string raw = slurp(data + "/smollm2_exact_logits_p" + std::to_string(p) + ".f32");
                REQUIRE(raw.size() == vocabulary * 4);
                std::vector<float> expected(vocabulary);
                std::memcpy(expected.data(), raw.data(), raw.size());
                const double c = cosine(logits.data() + (prompt.size() - 1) * vocabulary, expected.data(), vocabulary);
                worst = std::min(worst, c);
                CHECK(c >= (precision == Precision::exact ? 0.99999 : precision == Precision::fine ? 0.9999 : 0.997));
                if (precision != Precision::exact) continue;

                const auto output = ids_of(items[p].at("output_ids"));
                const auto& margins = items[p].at("step_margins").as_array();
                for (std::size_t i = 0; i < (isa == "scalar" ? std::min<std::size_t>(2, output.size()) : output.size()); ++i) {
                    const float* last = logits.data() + logits.size() - vocabulary;
                    const auto id = static_cast<TokenId>(std::max_element(last, last + vocabulary) - last);
                    if (margins[i].to_number<double>() >= 0.01) CHECK(id == output[i]);
                    logits = run.feed(std::vector<TokenId>{output[i]});
                }
            }
            std::cout << isa << " " << name(precision) << ": worst cosine " << worst << "\n";
        }
    }
}

TEST_CASE("demo model: perplexity over the GPL") {
    const char* path = demo_model();
    if (!path) return;
    const json::value reference = json::parse(slurp(data + "/exact.json"));
    const double exact = reference.at("perplexity_exact").to_number<double>();
    const std::string text = slurp("/usr/share/common-licenses/GPL-3").substr(0, 20480);
    struct Run {
        Precision precision;
        KvType kv;
        double tolerance;
    };
    for (const Run& r : {Run{Precision::exact, KvType::f32, 0.001}, Run{Precision::exact, KvType::i8, 0.002}, Run{Precision::fine, KvType::f16, 0.002},
                         Run{Precision::fast, KvType::f16, 0.015}}) {
        EngineOptions o = options(r.precision);
        o.kv = r.kv;
        LoadedModel model = load_model(path, o);
        const auto ids = model.tokenizer->encode(text, Specials::as_text);
        REQUIRE(ids.size() >= 8 * 512);
        double sum = 0;
        int scored = 0;
        for (int chunk = 0; chunk < 8; ++chunk) {
            Evaluation run(model, o);
            const auto logits = run.feed(std::span(ids).subspan(chunk * 512, 512));
            const std::size_t vocabulary = model.info.vocabulary;
            for (int i = 256; i < 511; ++i) {
                const float* row = logits.data() + i * vocabulary;
                const float top = *std::max_element(row, row + vocabulary);
                double total = 0;
                for (std::size_t v = 0; v < vocabulary; ++v) total += std::exp(double(row[v]) - top);
                sum -= double(row[ids[chunk * 512 + i + 1]]) - top - std::log(total);
                ++scored;
            }
        }
        const double perplexity = std::exp(sum / scored);
        std::cout << name(r.precision) << ", " << name(r.kv) << " KV: perplexity " << perplexity << "\n";
        CHECK(perplexity == Approx(exact).epsilon(r.tolerance));
    }
}

TEST_CASE("engine: an answer streams, is reproducible, and doesn't depend on its neighbours") {
    const char* path = demo_model();
    if (!path) return;
    EngineOptions o = options(Precision::exact);
    o.max_sequences = 4;
    o.prefill_rows = 16;
    o.kv_bytes = 0;
    const auto engine = make_engine(path, o);
    auto ask = [&](const std::string& question, int max_tokens) {
        GenerationRequest r;
        r.prompt = engine->chat_template().render(std::vector<ChatMessage>{{"user", question}}, engine->tokenizer());
        r.max_tokens = max_tokens;
        r.sampling.temperature = 0;
        auto text = std::make_shared<std::string>();
        auto done = std::make_shared<std::promise<std::pair<FinishReason, std::string>>>();
        GenerationSink sink;
        sink.on_text = [text](std::string t) { *text += t; };
        sink.on_finish = [text, done](FinishReason reason, Usage, std::string) { done->set_value({reason, *text}); };
        auto submitted = engine->submit(std::move(r), std::move(sink));
        REQUIRE(submitted.error == SubmitError::none);
        return std::pair(std::move(submitted.generation), done->get_future());
    };
    auto alone = ask("What is the capital of France?", 40);
    const auto [reason, text] = alone.second.get();
    CHECK(reason == FinishReason::stop);
    CHECK(text.find("Paris") != std::string::npos);

    auto a = ask("Write a haiku about the sea.", 40), b = ask("What is the capital of France?", 40), c = ask("Count to ten.", 40);
    CHECK(b.second.get().second == text);
    CHECK(a.second.get().first != FinishReason::error);
    c.first->cancel();
    c.second.get();
    auto endless = ask("Write a long story.", 900);
    endless.first->cancel();
    CHECK(endless.second.get().first == FinishReason::cancelled);
    CHECK(engine->status().kv_blocks_used == 0);
}
