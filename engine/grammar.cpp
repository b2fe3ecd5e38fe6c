// Compiling, and what was compiled lately. The vocabulary's trie is built with the first schema that anybody asks for.
#include "engine/grammar.h"

#include <list>
#include <map>
#include <mutex>

#include <boost/json.hpp>

#include "engine/grammar/json_schema.h"
#include "engine/grammar/matcher.h"

namespace glmd {

namespace {

namespace json = boost::json;
using namespace grammar;

constexpr std::size_t most_kept = 32;
constexpr int most_nesting = 64;

json::value parsed(std::string_view schema) {
    json::parse_options options;
    options.max_depth = most_nesting;
    boost::system::error_code error;
    json::value value = json::parse(json::string_view(schema.data(), schema.size()), error, {}, options);
    if (error) throw SchemaError("", "The schema is no valid JSON: " + error.message() + ".");
    return value;
}

class Compiler final : public GrammarCompiler {
public:
    Compiler(const Tokenizer& tokenizer, std::vector<TokenId> end_ids, int vocabulary)
        : tokenizer_(tokenizer), end_ids_(std::move(end_ids)), size_(vocabulary) {}

    std::shared_ptr<const Grammar> json_schema(std::string_view schema) override {
        return kept("json " + std::string(schema), [&](Automaton& automaton) {
            const json::value root = parsed(schema);
            SchemaCompiler compiler(automaton, root);
            RuleBuilder rule(automaton);
            const int value = rule.state(), end = rule.state();
            rule.accept(end);
            rule.call(rule.start(), compiler.blanks(), value);
            rule.call(value, compiler.value(root, ""), end);
            rule.finish(automaton.root);
            compiler.finish();
        });
    }

    std::shared_ptr<const Grammar> tool_calls(std::span<const ToolSchema> tools, const CallForm& form) override;

private:
    template <class Fill>
    std::shared_ptr<const Grammar> kept(const std::string& key, Fill fill) {
        {
            std::lock_guard lock(mutex_);
            for (auto it = kept_.begin(); it != kept_.end(); ++it)
                if (it->first == key) {
                    kept_.splice(kept_.begin(), kept_, it);
                    return it->second;
                }
        }
        Automaton automaton;
        automaton.root = automaton.add_rule();
        fill(automaton);
        const std::shared_ptr<const Vocabulary> words = vocabulary();
        automaton.bind(*words);
        auto grammar = std::make_shared<CompiledGrammar>(words, std::move(automaton));
        std::lock_guard lock(mutex_);
        kept_.emplace_front(key, grammar);
        if (kept_.size() > most_kept) kept_.pop_back();
        return grammar;
    }

    std::shared_ptr<const Vocabulary> vocabulary() {
        std::lock_guard lock(vocabulary_mutex_);
        if (!vocabulary_) vocabulary_ = std::make_shared<Vocabulary>(tokenizer_, end_ids_, size_);
        return vocabulary_;
    }

    const Tokenizer& tokenizer_;
    std::vector<TokenId> end_ids_;
    int size_;
    std::mutex vocabulary_mutex_, mutex_;
    std::shared_ptr<const Vocabulary> vocabulary_;
    std::list<std::pair<std::string, std::shared_ptr<const Grammar>>> kept_;  // the latest first
};

/// Names that end with a line break lead to `called`, by index; `or_text`: any other text is free.
void names(RuleBuilder& rule, int from, std::span<const ToolSchema> tools, const std::vector<int>& called, bool or_text) {
    std::map<std::string, int> known{{"", from}};  // what was read so far
    // The blank is SentencePiece's, which no text begins with.
    for (std::size_t t = 0; t < 2 * tools.size(); ++t) {
        const std::string line = (t % 2 ? " " : "") + tools[t / 2].name + "\n";
        for (std::size_t n = 1; n <= line.size(); ++n) {
            const auto [at, fresh] = known.emplace(line.substr(0, n), -1);
            if (!fresh) continue;
            at->second = n == line.size() ? called[t / 2] : rule.state();
            rule.bytes(known[line.substr(0, n - 1)], static_cast<unsigned char>(line[n - 1]), static_cast<unsigned char>(line[n - 1]), at->second);
        }
    }
    if (!or_text) return;
    const int text = rule.state();
    rule.accept(text);
    rule.free(text);
    rule.bytes(text, 0, 255, text);
    for (const auto& [read, state] : known) {
        if (read.ends_with('\n')) continue;
        rule.accept(state);
        for (int b = 0; b < 256; ++b)
            if (!known.contains(read + static_cast<char>(b))) rule.bytes(state, b, b, text);
    }
}

/// Text in which `mark` leads to `called`, wherever it stands.
void text_with(RuleBuilder& rule, int from, std::string_view mark, int called) {
    std::vector<int> matched;
    for (std::size_t i = 0; i < mark.size(); ++i) {
        matched.push_back(rule.state());
        rule.accept(matched[i]);
    }
    rule.skip(from, matched[0]);
    for (std::size_t i = 0; i < mark.size(); ++i)
        for (int b = 0; b < 256; ++b) {
            std::string read = std::string(mark.substr(0, i)) + static_cast<char>(b);
            while (!mark.starts_with(read)) read.erase(0, 1);
            rule.bytes(matched[i], b, b, read.size() == mark.size() ? called : matched[read.size()]);
        }
}

/// What stands between a name and its arguments, and behind these.
std::pair<std::string_view, std::string_view> around_arguments(CallForm::Kind form) {
    switch (form) {
        case CallForm::Kind::json: return {call_marks::arguments, call_marks::close};
        case CallForm::Kind::python: return {call_marks::python_open, call_marks::python_close};
        case CallForm::Kind::name_line: break;
    }
    return {};
}

std::shared_ptr<const Grammar> Compiler::tool_calls(std::span<const ToolSchema> tools, const CallForm& form) {
    std::string key = "tools " + std::to_string(int(form.kind)) + (form.calls_only ? "c" : "t") + (form.several ? "s" : "1") + form.text;
    for (const ToolSchema& t : tools) key += "\n" + t.name + " " + t.parameters;
    return kept(key, [&](Automaton& automaton) {
        RuleBuilder rule(automaton);
        const int end = rule.state();
        rule.accept(end);
        const auto with = [&](const std::string& pointer, const std::string& schema, auto add) {
            try {
                const json::value root = parsed(schema);
                SchemaCompiler compiler(automaton, root);
                add(compiler, root);
                compiler.finish();
            } catch (const SchemaError& e) {
                throw SchemaError(pointer + e.pointer, e.what());
            }
        };
        std::vector<int> called;  // behind a name
        const auto [before, behind] = around_arguments(form.kind);
        for (std::size_t i = 0; i < tools.size(); ++i)
            with("/" + std::to_string(i), tools[i].parameters, [&](SchemaCompiler& compiler, const json::value& root) {
                called.push_back(rule.state());
                const int closing = rule.state();
                rule.call(rule.literal(called[i], before), form.kind == CallForm::Kind::python ? compiler.keywords(root, "") : compiler.arguments(root, ""), closing);
                rule.literal(closing, behind, end);
            });
        if (!form.text.empty())
            with("/text", form.text, [&](SchemaCompiler& compiler, const json::value& root) {
                const int value = rule.state(), said = rule.state();
                rule.accept(said);
                if (!form.calls_only) rule.call(rule.start(), compiler.blanks(), value);
                rule.call(value, compiler.value(root, ""), said);
            });
        const bool any_text = !form.calls_only && form.text.empty();
        if (form.kind == CallForm::Kind::json) {
            const int open = rule.state();
            int name = rule.literal(open, call_marks::name);
            for (std::size_t i = 0; i < tools.size(); ++i) rule.literal(name, tools[i].name, called[i]);
            if (any_text) {
                text_with(rule, rule.start(), call_marks::open, open);
            } else {
                rule.literal(rule.start(), call_marks::open, open);
                rule.literal(rule.start(), " " + std::string(call_marks::open), open);
            }
            if (form.several) rule.literal(end, "\n" + std::string(call_marks::open), open);
        } else {
            names(rule, rule.start(), tools, called, any_text);
            if (form.several) {
                const int next = rule.literal(end, Vocabulary::special_mark + std::string("<|assistant|>"));
                names(rule, next, tools, called, false);
            }
        }
        rule.finish(automaton.root);
    });
}

}  // namespace

std::unique_ptr<TokenConstraint> Grammar::begin(std::shared_ptr<const Grammar> grammar) {
    return std::make_unique<Matcher>(std::static_pointer_cast<const CompiledGrammar>(std::move(grammar)));
}

std::unique_ptr<GrammarCompiler> make_grammar_compiler(const Tokenizer& tokenizer, std::vector<TokenId> end_ids, int vocabulary) {
    return std::make_unique<Compiler>(tokenizer, std::move(end_ids), vocabulary);
}

}  // namespace glmd
