// JSON schemas, and what is answered within them. The first byte says what for: an answer, or, in one of three forms, the arguments of
// functions "ab" and "tool", whose schemas 0x1e separates from each other, and from one of what may be said instead. A schema that is accepted is answered a few times, with tokens drawn at random
// from the masks: there is always one, the tokens that were promised are enough, and what comes out parses and satisfies the schema as
// satisfies() reads it, which knows nothing of rules.
#include <algorithm>
#include <cmath>
#include <random>

#include <boost/json.hpp>

#include "engine/grammar.h"
#include "engine/tools.h"
#include "tests/engine/grammar/pieces.h"
#include "tests/fuzz/fuzz.h"

using namespace glmd;
namespace json = boost::json;

namespace {

constexpr int most_tokens = 150;

json::value parse(std::string_view text, const char* what) {
    json::parse_options options;
    options.max_depth = 1000;
    boost::system::error_code error;
    json::value value = json::parse(json::string_view(text.data(), text.size()), error, {}, options);
    fuzz::require(!error, what);
    return value;
}

bool same(const json::value& a, const json::value& b) {
    if (a.is_number() && b.is_number()) return std::abs(a.to_number<double>() - b.to_number<double>()) <= 1e-12 * std::abs(a.to_number<double>());
    if (a.is_array() && b.is_array()) return std::equal(a.get_array().begin(), a.get_array().end(), b.get_array().begin(), b.get_array().end(), same);
    if (!a.is_object() || !b.is_object()) return a == b;
    return a.get_object().size() == b.get_object().size() && std::all_of(a.get_object().begin(), a.get_object().end(), [&](const auto& pair) {
        const json::value* other = b.get_object().if_contains(pair.key());
        return other && same(pair.value(), *other);
    });
}

bool is_of(const json::value& value, std::string_view type) {
    if (type == "number") return value.is_number();
    if (type == "integer") return value.is_int64() || value.is_uint64() || (value.is_double() && value.get_double() == std::trunc(value.get_double()));
    return type == (value.is_object() ? "object" : value.is_array() ? "array" : value.is_string() ? "string" : value.is_bool() ? "boolean" : value.is_null() ? "null" : "");
}

/// Standard semantics, but for pattern and format. Malformed parts, which the compiler may pass over, count for nothing.
bool satisfies(const json::value& value, const json::value& schema, const json::value& root) {
    if (schema.is_bool()) return schema.get_bool();
    const json::object& s = schema.get_object();
    const auto fits = [&](const json::value& one) { return satisfies(value, one, root); };
    const auto number = [&](const char* name, double otherwise) { return s.contains(name) ? s.at(name).to_number<double>() : otherwise; };
    const auto within = [&](const char* least, const char* most, std::size_t n) { return double(n) >= number(least, 0) && double(n) <= number(most, HUGE_VAL); };
    const auto list = [&](const char* name) { return s.contains(name) ? s.at(name).get_array() : json::array(); };
    const auto any = [&](const char* name, auto check) {
        const json::array all = list(name);
        return !s.contains(name) || std::any_of(all.begin(), all.end(), check);
    };
    if (s.contains("$ref") && !fits(root.at_pointer(s.at("$ref").get_string().subview(1)))) return false;
    if (const json::value* type = s.if_contains("type")) {
        const json::array types = type->is_array() ? type->get_array() : json::array{*type};
        if (std::none_of(types.begin(), types.end(), [&](const json::value& t) { return is_of(value, t.get_string()); })) return false;
    }
    if (s.contains("const") && !same(value, s.at("const"))) return false;
    if (!any("enum", [&](const json::value& one) { return same(value, one); }) || !any("anyOf", fits)) return false;
    const json::array all = list("allOf"), one = list("oneOf");
    if (!std::all_of(all.begin(), all.end(), fits) || (s.contains("oneOf") && std::count_if(one.begin(), one.end(), fits) != 1)) return false;
    if (value.is_number()) {
        const double v = value.to_number<double>(), slack = 1e-12 * std::abs(v);
        if (v < number("minimum", -HUGE_VAL) - slack || v > number("maximum", HUGE_VAL) + slack) return false;
        if (v <= number("exclusiveMinimum", -HUGE_VAL) - slack || v >= number("exclusiveMaximum", HUGE_VAL) + slack) return false;
    }
    if (value.is_string()) {
        const auto& text = value.get_string();
        if (!within("minLength", "maxLength", std::size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; })))) return false;
    }
    if (value.is_array()) {
        const json::array& items = value.get_array();
        const json::array first = list("prefixItems");
        if (!within("minItems", "maxItems", items.size())) return false;
        for (std::size_t i = 0; i < items.size(); ++i)
            if (i < first.size() ? !satisfies(items[i], first[i], root) : s.contains("items") && !satisfies(items[i], s.at("items"), root)) return false;
    }
    if (value.is_object()) {
        const json::object& o = value.get_object();
        const json::array required = list("required");
        if (!within("minProperties", "maxProperties", o.size())) return false;
        if (!std::all_of(required.begin(), required.end(), [&](const json::value& name) { return o.contains(name.get_string()); })) return false;
        const json::object declared = s.contains("properties") ? s.at("properties").get_object() : json::object();
        for (const auto& pair : o) {
            const json::value* inner = declared.if_contains(pair.key());
            if (!inner) inner = s.if_contains("additionalProperties");
            if (inner && !satisfies(pair.value(), *inner, root)) return false;
        }
    }
    return true;
}

void check(std::string_view answer, std::string_view schema) {
    const json::value s = parse(schema, "a schema that was accepted is JSON");
    fuzz::require(satisfies(parse(answer, "an answer is JSON"), s, s), std::string(answer).c_str());
}

/// An answer of at most `tokens` tokens.
std::string draw(TokenConstraint& constraint, const Pieces& tokenizer, int tokens, std::mt19937& random) {
    StreamDecoder decoder(tokenizer);
    std::string text;
    for (; !constraint.finished(); --tokens) {
        const auto mask = constraint.mask(tokens);
        std::vector<TokenId> allowed;
        for (TokenId id = 0; id < tokenizer.size(); ++id)
            if (mask.empty() ? id <= tokenizer.end() : mask[std::size_t(id) / 64] >> (id % 64) & 1) allowed.push_back(id);
        fuzz::require(!allowed.empty(), "something may follow");
        const bool may_end = std::erase(allowed, tokenizer.end()) > 0;
        fuzz::require(may_end || tokens > 0, "the answer has ended before its tokens have run out");
        if (may_end && (tokens == 0 || allowed.empty() || random() % 4 == 0)) break;
        const TokenId id = allowed[random() % allowed.size()];
        constraint.accept(id);
        text += decoder.push(id);
    }
    return text + decoder.finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const Pieces tokenizer;
    if (size == 0) return 0;
    // A compiler of its own keeps one input from answering for another.
    const auto compiler = make_grammar_compiler(tokenizer, {tokenizer.end()}, tokenizer.size());
    std::string_view text = fuzz::text_of(data + 1, size - 1);
    std::vector<ToolSchema> tools;
    std::shared_ptr<const Grammar> grammar;
    const unsigned kind = data[0] % 4;
    CallForm form{.kind = static_cast<CallForm::Kind>(kind > 0 ? kind - 1 : 0), .calls_only = true, .several = data[0] % 8 >= 4};
    try {
        if (kind == 0) {
            grammar = compiler->json_schema(text);
        } else {
            for (const char* name : {"ab", "tool"})
                if (!text.empty()) tools.push_back({name, std::string(fuzz::take(text, '\x1e'))});
            form.text = text;
            form.calls_only = text.empty();
            grammar = compiler->tool_calls(tools, form);
        }
    } catch (const SchemaError& e) {
        fuzz::require(e.what()[0] != '\0' && (e.pointer.empty() || e.pointer[0] == '/'), "a refusal says where and why");
        return 0;
    }
    std::mt19937 random(static_cast<unsigned>(size));
    for (int i = 0; i < 3; ++i) {
        const int tokens = grammar->least_tokens() + int(random() % 30);
        if (tokens > most_tokens) continue;
        const auto constraint = Grammar::begin(grammar);
        const std::string answer = draw(*constraint, tokenizer, tokens, random);
        if (kind == 0) {
            check(answer, text);
            continue;
        }
        using Kind = ToolCallReader::Event::Kind;
        ToolCallReader reader(form.kind, {"ab", "tool"}, true);
        std::vector<ToolCallReader::Event> events = reader.push(answer);
        for (auto& e : reader.finish()) events.push_back(std::move(e));
        fuzz::require(!events.empty(), "an answer is a call, or text");
        fuzz::require(events.front().kind == Kind::begin || (events.front().kind == Kind::text && !form.calls_only), "an answer is what was asked for");
        std::string said;
        const ToolSchema* called = nullptr;
        for (const auto& e : events) {
            if (e.kind == Kind::text) said += e.text;
            if (e.kind == Kind::begin) called = e.text == "ab" ? &tools.at(0) : &tools.at(1);
            if (e.kind == Kind::arguments) check(e.text, called->parameters);
        }
        if (!said.empty()) check(said, form.text);
    }
    return 0;
}
