// Runs a model alone, without the daemon: one JSON task a line on stdin, one JSON answer a line on stdout. What script/verify-real
// and curious people compare with upstream's own code.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>

#include "cli/app.h"
#include "cli/client.h"
#include "engine/loaded_model.h"

namespace glmd {

namespace {

struct EvalOptions {
    std::string model, precision = "exact", weights = "auto", cache;
    int window = 256;
};

std::vector<TokenId> ids_of(const json::value& v, int vocabulary) {
    std::vector<TokenId> ids;
    for (const auto& x : v.as_array()) {
        const std::int64_t id = x.to_number<std::int64_t>();
        if (id < 0 || id >= vocabulary) throw CliError(Exit::error, "the id " + std::to_string(id) + " is outside the vocabulary");
        ids.push_back(static_cast<TokenId>(id));
    }
    if (ids.empty()) throw CliError(Exit::error, "a task with no ids");
    return ids;
}

json::array json_of(std::span<const TokenId> ids) { return json::array(ids.begin(), ids.end()); }

class Evaluator {
public:
    explicit Evaluator(const EvalOptions& o) {
        engine_.precision = precision_named(o.precision);
        engine_.max_sequences = o.window;
        engine_.prefill_rows = 1;
        engine_.kv_bytes = 1;  // one context
        engine_.cache_directory = o.cache;
        engine_.weights = *weights_mode_named(o.weights);
        model_ = load_model(o.model, engine_);
    }

    json::object info() const {
        return {{"model", model_.info.name}, {"architecture", model_.info.architecture}, {"parameters", model_.info.parameters},
                {"vocabulary", model_.info.vocabulary}, {"context", model_.info.context}, {"backend", model_.info.backend},
                {"chat_template", model_.chat_template->name()}, {"end_ids", json_of(model_.end_ids)}};
    }

    json::object run(const json::object& task) {
        const Tokenizer& tokenizer = *model_.tokenizer;
        if (const auto* text = task.if_contains("encode")) {
            const bool parse = task.contains("specials") && task.at("specials") == "parse";
            return {{"ids", json_of(tokenizer.encode(std::string_view(text->as_string()), parse ? Specials::parse : Specials::as_text))}};
        }
        if (const auto* ids = task.if_contains("decode")) return {{"text", tokenizer.decode(ids_of(*ids, model_.info.vocabulary))}};
        if (const auto* messages = task.if_contains("chat")) {
            std::vector<ChatMessage> chat;
            for (const auto& m : messages->as_array())
                chat.push_back({std::string(m.at("role").as_string()), std::string(m.at("content").as_string())});
            return {{"ids", json_of(model_.chat_template->render(chat, tokenizer))}};
        }
        if (const auto* ids = task.if_contains("logits")) {
            const auto prompt = ids_of(*ids, model_.info.vocabulary);
            Evaluation evaluation(model_, engine_);
            const auto logits = evaluation.feed(prompt);
            return {{"logits", json::array(logits.end() - model_.info.vocabulary, logits.end())}};
        }
        if (const auto* ids = task.if_contains("greedy")) {
            const auto prompt = ids_of(*ids, model_.info.vocabulary);
            const std::int64_t count = task.contains("max_tokens") ? task.at("max_tokens").to_number<std::int64_t>() : 32;
            Evaluation evaluation(model_, engine_);
            std::vector<float> logits = evaluation.feed(prompt);
            std::vector<TokenId> answer;
            json::array margins;
            while (static_cast<std::int64_t>(answer.size()) < count && evaluation.tokens() < model_.info.context) {
                float* last = logits.data() + logits.size() - model_.info.vocabulary;
                float* best = std::max_element(last, last + model_.info.vocabulary);
                const float top = *best;
                answer.push_back(static_cast<TokenId>(best - last));
                *best = -1e30f;
                margins.push_back(top - *std::max_element(last, last + model_.info.vocabulary));
                if (std::count(model_.end_ids.begin(), model_.end_ids.end(), answer.back())) break;
                logits = evaluation.feed({&answer.back(), 1});
            }
            return {{"ids", json_of(answer)}, {"margins", margins}, {"text", tokenizer.decode(answer)}};
        }
        if (const auto* ids = task.if_contains("perplexity")) {  // of the second half of each window, on the first
            const auto all = ids_of(*ids, model_.info.vocabulary);
            const std::size_t window = engine_.max_sequences, vocabulary = model_.info.vocabulary;
            double sum = 0;
            int scored = 0;
            for (std::size_t begin = 0; begin + window <= all.size(); begin += window) {
                Evaluation evaluation(model_, engine_);
                const auto logits = evaluation.feed(std::span(all).subspan(begin, window));
                for (std::size_t i = window / 2; i + 1 < window; ++i, ++scored) {
                    const float* row = logits.data() + i * vocabulary;
                    const float top = *std::max_element(row, row + vocabulary);
                    double total = 0;
                    for (std::size_t v = 0; v < vocabulary; ++v) total += std::exp(double(row[v]) - top);
                    sum += std::log(total) + top - double(row[all[begin + i + 1]]);
                }
            }
            if (scored == 0) throw CliError(Exit::error, "perplexity needs at least " + std::to_string(window) + " ids");
            return {{"perplexity", std::exp(sum / scored)}, {"scored", scored}};
        }
        throw CliError(Exit::error, "a task is one of encode, decode, chat, logits, greedy, perplexity");
    }

private:
    EngineOptions engine_;
    LoadedModel model_;
};

Exit run_eval(const EvalOptions& options) {
    Evaluator evaluator(options);
    std::cout << json::serialize(evaluator.info()) << std::endl;
    Exit exit = Exit::ok;
    for (std::string line; std::getline(std::cin, line);) {
        if (line.empty()) continue;
        json::object answer;
        try {
            answer = evaluator.run(json::parse(line).as_object());
        } catch (const std::exception& e) {
            answer = {{"error", e.what()}};
            exit = Exit::error;
        }
        std::cout << json::serialize(answer) << std::endl;
    }
    return exit;
}

}  // namespace

std::string cache_folder() {
    if (const char* set = std::getenv("XDG_CACHE_HOME"); set && *set) return std::string(set) + "/glmd";
    const char* home = std::getenv("HOME");
    return std::string(home && *home ? home : "/tmp") + "/.cache/glmd";
}

void add_eval(CLI::App& app, Globals&, Action& action) {
    auto options = std::make_shared<EvalOptions>();
    options->cache = cache_folder();
    CLI::App* sub = app.add_subcommand("eval", "run a model file without the daemon: JSON tasks on stdin, answers on stdout");
    sub->add_option("model", options->model, "a GGUF file")->required()->check(CLI::ExistingFile);
    sub->add_option("--precision", options->precision, "exact, fine or fast")->check(CLI::IsMember({"exact", "fine", "fast"}))->capture_default_str();
    sub->add_option("--weights", options->weights, "auto, resident, or stream: read from disk for every step")->check(CLI::IsMember({"auto", "resident", "stream"}))->capture_default_str();
    sub->add_option("--window", options->window, "longest prompt, and perplexity's window, in tokens")->check(CLI::Range(2, 8192))->capture_default_str();
    sub->add_option("--cache", options->cache, "where packed weights are kept")->capture_default_str();
    sub->footer(
        "The first line of the output describes the model. Tasks, one a line:\n"
        "  {\"encode\": \"text\", \"specials\": \"parse\"}     {\"decode\": [1, 2]}\n"
        "  {\"chat\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n"
        "  {\"logits\": [1, 2]}     {\"greedy\": [1, 2], \"max_tokens\": 16}     {\"perplexity\": [1, 2, …]}\n"
        "Examples:\n"
        "  echo '{\"chat\": [{\"role\": \"user\", \"content\": \"你好\"}]}' | glm eval chatglm3-6b.gguf\n"
        "  echo '{\"encode\": \"Hello\"}' | glm eval model.gguf --precision fast");
    sub->callback([options, &action] { action = [options] { return run_eval(*options); }; });
}

}  // namespace glmd
