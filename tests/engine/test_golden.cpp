// Every family against the recorded outputs of its upstream code (GLMD_GOLDEN, see tests/data/golden/README.md): the upstream
// checkpoint goes through our converter, packing and forward pass; logits, positions and greedy ids are compared.
#include "tests/engine/golden.h"

#include <catch2/catch.hpp>
#include <cmath>

using namespace glmd;
using namespace glmd::golden;

namespace {

/// f32 arithmetic on upstream's own weights: logits within 1e-4, greedy ids equal where the two best are 1e-3 apart.
void check_exact(const Source& s, const std::string& isa) {
    constexpr double tolerance = 1e-4, margin = 1e-3;
    const fs::path golden = std::getenv("GLMD_GOLDEN");
    const Folder folder;
    const EngineOptions o = options(folder.path, Precision::exact, isa);
    LoadedModel model = load_model(converted(s, OutputType::as_source, folder), o);
    const std::size_t vocabulary = model.info.vocabulary;
    const std::string name = s.family + "/" + s.model + (s.prefix.empty() ? "" : "+" + s.prefix);
    const json::value file = read_json(golden / s.family / s.cases);
    double worst = 0, error = 0, energy = 0;
    std::string worst_case;
    int compared = 0;
    for (const auto& c : file.at("cases").as_array()) {
        const std::string id = c.at("id").as_string().c_str();
        if (!c.at("input_ids").as_array().empty() && c.at("input_ids").as_array()[0].is_array()) continue;  // padded batches
        if (!c.as_object().contains(s.logits)) continue;
        INFO(name << " " << isa << " " << id);
        const auto prompt = ids_of(c.at("input_ids"));
        if (const auto* recorded_positions = c.as_object().if_contains("position_ids"); recorded_positions && recorded_positions->is_array()) {
            const PromptLayout layout = model.model->layout(prompt);
            if (recorded_positions->as_array()[0].is_array()) {
                CHECK(layout.positions == ids_of(recorded_positions->as_array()[0]));
                CHECK(layout.block_positions == ids_of(recorded_positions->as_array()[1]));
            } else {
                CHECK(layout.positions == ids_of(*recorded_positions));
            }
        }
        Evaluation run(model, o);
        std::vector<float> logits = run.feed(prompt);
        const json::value& where = c.at(s.logits);
        MappedFile arrays((golden / s.family / where.at("file").as_string().c_str()).string());
        const auto expected = recorded(read_safetensors(arrays), where.at("key").as_string().c_str());
        const auto positions = ids_of(where.at("positions"));
        REQUIRE(expected.size() == positions.size() * vocabulary);
        double here = 0;
        for (std::size_t p = 0; p < positions.size(); ++p) {
            const std::size_t row = positions[p] < 0 ? prompt.size() + positions[p] : positions[p];
            for (std::size_t i = 0; i < vocabulary; ++i) {
                const double d = double(logits[row * vocabulary + i]) - expected[p * vocabulary + i];
                here = std::max(here, std::abs(d));
                error += d * d, energy += double(expected[p * vocabulary + i]) * expected[p * vocabulary + i];
            }
        }
        CHECK(here <= tolerance);
        if (here > worst) worst = here, worst_case = id;
        ++compared;
        if (s.logits != "logits") continue;
        const auto greedy = ids_of(c.at("greedy").at("ids"));
        const auto& margins = c.at("greedy").at("step_margins").as_array();
        for (std::size_t i = 0; i < greedy.size(); ++i) {
            const float* last = logits.data() + logits.size() - vocabulary;
            if (margins[i].to_number<double>() >= margin)
                CHECK(std::max_element(last, last + vocabulary) - last == greedy[i]);
            if (i + 1 < greedy.size()) logits = run.feed(std::vector<TokenId>{greedy[i]});
        }
    }
    CHECK(compared > 0);
    std::cout << name << " on " << isa << ": " << compared << " cases, worst logit error " << worst << " (" << worst_case
              << "), relative RMS " << std::sqrt(error / energy) << "\n";
}

const std::vector<Source> sources = {
    {"chatglm1", "cases.json", "fp16", ""},
    {"chatglm1", "cases_fp32.json", "fp32", "", "logits", "", "fp16"},
    {"chatglm1", "cases_deep28.json", "deep28", "", "logits", "", "fp16"},
    {"chatglm1", "cases_int4.json", "int4", "", "logits", "", "fp16"},
    {"chatglm1", "cases_int8.json", "int8", "", "logits", "", "fp16"},
    {"chatglm1", "cases_ptuning.json", "fp16", "ptuning"},
    {"chatglm1", "cases_ptuning_proj.json", "fp16", "ptuning_proj"},
    {"chatglm2", "cases.json", "fp16", ""},
    {"chatglm2", "cases_int4.json", "int4", ""},
    {"chatglm2", "cases_int8.json", "int8", ""},
    {"chatglm2", "cases_ptuning.json", "fp16", "ptuning"},
    {"chatglm3", "cases.json", "fp16", ""},
    {"glm4_remote", "cases.json", "bf16", ""},
    {"glm4_hf", "cases.json", "model", ""},
    {"glm_edge_hf", "cases.json", "model", ""},
    {"glm4_0414_hf", "cases.json", "model", ""},
    {"glm", "cases.json", "hf", ""},
    {"glm", "cases.json", "original", "", "logits_tanh_gelu", "hf/config.json", "hf"},
    {"glm130b", "cases.json", "sat_mp1", "", "logits", "model_config.json"},
    {"glm130b", "cases.json", "sat_mp2", "", "logits", "model_config.json"},
};

}  // namespace

TEST_CASE("golden: exact precision reproduces every family") {
    if (!golden_is_there()) return;
    for (const std::string& isa : cpu_instruction_sets())
        for (const Source& s : sources) check_exact(s, isa);
}

TEST_CASE("golden: fast precision stays near exact on the same int8 weights, on every family") {
    if (!golden_is_there()) return;
    for (const Source& s : sources) {
        const fs::path golden = std::getenv("GLMD_GOLDEN");
        const Folder folder;
        const std::string gguf = converted(s, OutputType::int8, folder);
        LoadedModel exact = load_model(gguf, options(folder.path, Precision::exact, {}));
        LoadedModel fast = load_model(gguf, options(folder.path, Precision::fast, {}));
        const std::size_t vocabulary = exact.info.vocabulary;
        double error = 0, energy = 0;
        int rows = 0, same = 0;
        const json::value file = read_json(golden / s.family / s.cases);
        for (const auto& c : file.at("cases").as_array()) {
            if (c.at("input_ids").as_array()[0].is_array()) continue;
            const auto prompt = ids_of(c.at("input_ids"));
            const auto a = Evaluation(exact, options(folder.path, Precision::exact, {})).feed(prompt);
            const auto b = Evaluation(fast, options(folder.path, Precision::fast, {})).feed(prompt);
            for (std::size_t i = 0; i < a.size(); ++i) error += std::pow(double(a[i]) - b[i], 2), energy += double(a[i]) * a[i];
            for (std::size_t r = 0; r < prompt.size(); ++r) {
                std::vector<float> row(a.begin() + r * vocabulary, a.begin() + (r + 1) * vocabulary);
                const auto best = std::max_element(row.begin(), row.end()) - row.begin();
                const float top = row[best];
                row[best] = -1e30f;
                const float margin = top - *std::max_element(row.begin(), row.end());
                const float* other = b.data() + r * vocabulary;
                const bool agree = std::max_element(other, other + vocabulary) - other == best;
                ++rows, same += agree;
                // The last row is what greedy decoding would say next.
                if (r + 1 == prompt.size() && margin >= 0.5f) {
                    INFO(s.family << "/" << s.model << " " << c.at("id").as_string().c_str() << " margin " << margin);
                    CHECK(agree);
                }
            }
        }
        const double relative = std::sqrt(error / energy);
        std::cout << s.family << "/" << s.model << " int8 weights, fast beside exact: relative RMS " << relative << ", same best id in "
                  << same << " of " << rows << " rows\n";
        CHECK(relative <= 0.2);
    }
}
