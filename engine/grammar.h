#pragma once
// Answers of a guaranteed form. A JSON schema becomes a pushdown automaton over bytes (grammar/automaton.h), which says at each
// step which of a model's tokens may come next (grammar/matcher.h): those that lie within one rule are known beforehand for
// each of its states, and only those that leave it are looked at again, as XGrammar (Dong et al. 2024) does.
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "engine/token_constraint.h"

namespace glmd {

/// A schema that can't be enforced; `pointer` is where (a JSON pointer, "" for the whole).
struct SchemaError : std::runtime_error {
    SchemaError(std::string pointer_, const std::string& message) : std::runtime_error(message), pointer(std::move(pointer_)) {}
    std::string pointer;
};

/// Compiled for one model's vocabulary.
class Grammar {
public:
    virtual ~Grammar() = default;
    /// Of a new answer. Constraints of one grammar share what they have learnt: one thread at a time uses them. Must not outlive
    /// the tokenizer.
    static std::unique_ptr<TokenConstraint> begin(std::shared_ptr<const Grammar> grammar);
    /// So many tokens are enough for the shortest answer. An answer that may have fewer ends unfinished; any other is whole.
    virtual int least_tokens() const = 0;
};

/// How a tool is called in an answer.
struct CallForm {
    enum class Kind : std::uint8_t {
        json,      // <tool_call>\n{"name": "f", "arguments": {…}}\n</tool_call>
        name_line, // f\n{…}, GLM-4's
        python,    // f\n ```python\ntool_call(a=1, b="x")\n```, ChatGLM3's
    } kind = Kind::json;
    bool calls_only = false;   // no plain text instead
    bool several = true;       // calls in one answer: GLM's are separated by <|assistant|>
    std::string text = {};     // a JSON schema of what may be said instead; empty: anything, and calls may follow it
};
/// What stands around a call's name and arguments: the grammar demands it, ToolCallReader (engine/tools.h) skips it.
namespace call_marks {
inline constexpr std::string_view open = "<tool_call>", name = "\n{\"name\": \"", arguments = "\", \"arguments\": ", close = "}\n</tool_call>";
inline constexpr std::string_view python_open = " ```python\ntool_call(", python_close = ")\n```";
}  // namespace call_marks
struct ToolSchema {
    std::string name, parameters;  // a JSON schema
};

/// For one model. Any thread; compiling may take a second, so not on one that others wait for.
class GrammarCompiler {
public:
    virtual ~GrammarCompiler() = default;
    /// Throws SchemaError. What was compiled lately is kept.
    virtual std::shared_ptr<const Grammar> json_schema(std::string_view schema) = 0;
    /// Text, or calls of these tools. SchemaError's pointer starts with /N, the tool's index, or with /text.
    virtual std::shared_ptr<const Grammar> tool_calls(std::span<const ToolSchema> tools, const CallForm& form) = 0;
};

/// `end_ids` end an answer; `vocabulary` is how many ids the model's logits have.
std::unique_ptr<GrammarCompiler> make_grammar_compiler(const Tokenizer& tokenizer, std::vector<TokenId> end_ids, int vocabulary);

}  // namespace glmd
