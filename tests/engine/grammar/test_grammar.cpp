// Masks against an enumeration of what a schema allows.
#include <catch2/catch.hpp>

#include <algorithm>
#include <random>
#include <set>

#include "engine/grammar.h"
#include "tests/engine/grammar/pieces.h"

using namespace glmd;

namespace {

struct Model {
    Pieces tokenizer;
    std::unique_ptr<GrammarCompiler> compiler = make_grammar_compiler(tokenizer, {tokenizer.end()}, tokenizer.size() + 60);
    static constexpr int plenty = 1000;

    std::unique_ptr<TokenConstraint> begin(const std::string& schema) { return Grammar::begin(compiler->json_schema(schema)); }
    std::set<TokenId> allowed(TokenConstraint& c, int left = plenty) const {
        std::set<TokenId> out;
        const auto mask = c.mask(left);
        CHECK(mask.size() == std::size_t(tokenizer.size() + 60 + 63) / 64);
        for (std::size_t i = 0; i < mask.size() * 64; ++i)
            if (mask[i / 64] >> (i % 64) & 1) out.insert(static_cast<TokenId>(i));
        return out;
    }
    bool may_end(TokenConstraint& c) const { return allowed(c).contains(tokenizer.end()); }
    /// Byte by byte: each is allowed; then whether the whole may end there.
    bool accepts(const std::string& schema, const std::string& text) {
        const auto c = begin(schema);
        for (const char byte : text) {
            const TokenId id = static_cast<unsigned char>(byte);
            if (!allowed(*c).contains(id)) return false;
            c->accept(id);
        }
        return may_end(*c);
    }
};

/// Walks every way through the tokens and compares each mask with what the texts allow.
void compare(Model& m, const std::string& schema, const std::set<std::string>& texts) {
    INFO(schema);
    const auto grammar = m.compiler->json_schema(schema);
    std::set<std::string> seen;
    std::vector<std::vector<TokenId>> open{{}};
    while (!open.empty()) {
        const std::vector<TokenId> ids = open.back();
        open.pop_back();
        const std::string said = m.tokenizer.decode(ids);
        if (!seen.insert(said).second) continue;
        const auto c = Grammar::begin(grammar);
        for (const TokenId id : ids) c->accept(id);
        std::set<TokenId> expected;
        bool longer = false;
        for (const std::string& text : texts) {
            if (!text.starts_with(said)) continue;
            if (text == said) expected.insert(m.tokenizer.end());
            else longer = true;
        }
        for (TokenId id = 0; id < m.tokenizer.end(); ++id) {
            const std::string with = said + m.tokenizer.piece(id);
            if (std::any_of(texts.begin(), texts.end(), [&](const std::string& t) { return t.starts_with(with); })) expected.insert(id);
        }
        INFO("behind " << said);
        REQUIRE(m.allowed(*c) == expected);
        REQUIRE(c->finished() == !longer);
        for (const TokenId id : expected)
            if (id != m.tokenizer.end()) {
                open.push_back(ids);
                open.back().push_back(id);
            }
    }
    CHECK(seen.size() >= texts.size());
}

/// With the blanks that may lead.
std::set<std::string> led(const std::set<std::string>& texts) {
    std::set<std::string> out;
    for (const std::string& t : texts) {
        out.insert({t, " " + t});
        for (std::size_t n = 0; n <= 20; ++n) out.insert("\n" + std::string(n, ' ') + t);
    }
    return out;
}

std::string refusal(Model& m, const std::string& schema) {
    try {
        m.compiler->json_schema(schema);
    } catch (const SchemaError& e) {
        return e.pointer + " " + e.what();
    }
    return "compiled";
}

}  // namespace

TEST_CASE("a mask allows what can still become valid, and nothing else", "[grammar]") {
    Model m;
    compare(m, R"({"enum": ["ab", "abc", "中", "é", 12, 123, -1, 1.5, true, null, "a\"b\n"]})",
            led({"\"ab\"", "\"abc\"", "\"中\"", "\"é\"", "12", "123", "-1", "1.5", "true", "null", "\"a\\\"b\\n\""}));
    compare(m, R"x({"type": "string", "pattern": "^(ab?|c){1,2}$"})x",
            led({"\"a\"", "\"ab\"", "\"c\"", "\"aa\"", "\"aab\"", "\"ac\"", "\"aba\"", "\"abab\"", "\"abc\"", "\"ca\"", "\"cab\"", "\"cc\""}));
    compare(m, R"({"type": "integer", "minimum": 9, "maximum": 12})", led({"9", "10", "11", "12"}));
    compare(m, R"({"type": "string", "pattern": "^[é中]$", "maxLength": 1})", led({"\"é\"", "\"中\""}));
    compare(m, R"({"anyOf": [{"const": "ab"}, {"enum": ["abc", 1]}, {"$ref": "#/anyOf/0"}]})", led({"\"ab\"", "\"abc\"", "1"}));
}

TEST_CASE("two ids with the same bytes are allowed alike, ids that are no text never", "[grammar]") {
    Model m;
    const auto c = m.begin(R"({"enum": ["a"]})");
    c->accept('"');
    const TokenId twin = m.tokenizer.end() - 1;
    REQUIRE(m.tokenizer.piece(twin) == "a");
    const auto allowed = m.allowed(*c);
    CHECK(allowed.contains('a'));
    CHECK(allowed.contains(twin));
    CHECK(*allowed.rbegin() < m.tokenizer.end());
}

TEST_CASE("objects: declared order, required, optional and additional properties", "[grammar]") {
    Model m;
    const std::string some = R"({"type": "object", "properties": {"a": {"type": "integer"}, "ab": {"type": "null"}, "b": {"type": "boolean"}}, "required": ["b"]})";
    CHECK(m.accepts(some, R"({"a": 1, "ab": null, "b": true})"));
    CHECK(m.accepts(some, R"({"ab":null,"b":true})"));
    CHECK(m.accepts(some, "{\n  \"b\": false\n}"));
    CHECK_FALSE(m.accepts(some, R"({"b": true, "a": 1})"));
    CHECK_FALSE(m.accepts(some, R"({"a": 1})"));
    CHECK_FALSE(m.accepts(some, R"({"a": 1,})"));
    CHECK_FALSE(m.accepts(some, R"({})"));
    CHECK_FALSE(m.accepts(some, R"({"b": true, "c": 1})"));
    const std::string more = R"({"type": "object", "properties": {"a": {"type": "integer"}, "a\"": {}, "no": false}, "additionalProperties": {"type": "null"}})";
    CHECK(m.accepts(more, R"({})"));
    CHECK(m.accepts(more, R"({"a": 1, "b": null, "aa": null, "": null})"));
    CHECK(m.accepts(more, R"({"a\"": [true], "x": null})"));
    CHECK_FALSE(m.accepts(more, R"({"b": null, "a": null})"));   // would be declared
    CHECK_FALSE(m.accepts(more, R"({"b": null, "a\"": null})"));
    CHECK_FALSE(m.accepts(more, R"({"b": null, "\u0061": null})"));
    CHECK_FALSE(m.accepts(more, R"({"no": null})"));
    CHECK_FALSE(m.accepts(more, R"({"b": 1})"));
    CHECK(m.accepts(R"({"type": "object"})", R"({"x": {"y": [1, "z", {}]}})"));
    CHECK(m.accepts(R"({"required": ["x"], "properties": {"y": true}})", R"({"y": 1, "x": []})"));
}

TEST_CASE("arrays are counted, by millions as well", "[grammar]") {
    Model m;
    const auto array = [&](const std::string& rest, const std::string& text) { return m.accepts(R"({"type": "array", "items": {"enum": [1]})" + rest + "}", text); };
    for (int least = 0; least <= 3; ++least)
        for (int most = least; most <= 4; ++most)
            for (int n = 0; n <= 5; ++n) {
                std::string text = "[";
                for (int i = 0; i < n; ++i) text += i > 0 ? ",1" : "1";
                INFO(least << " " << most << " " << text);
                CHECK(array(", \"minItems\": " + std::to_string(least) + ", \"maxItems\": " + std::to_string(most), text + "]") == (n >= least && n <= most));
            }
    CHECK(array(", \"maxItems\": 1000000000", "[1, 1]"));
    CHECK_FALSE(array(", \"minItems\": 1000000", "[1, 1]"));
    CHECK(array(", \"prefixItems\": [{\"type\": \"null\"}, {\"type\": \"boolean\"}], \"maxItems\": 3", "[null, true, 1]"));
    CHECK_FALSE(array(", \"prefixItems\": [{\"type\": \"null\"}], \"minItems\": 2", "[null]"));
    CHECK_FALSE(array(", \"prefixItems\": [{\"type\": \"null\"}], \"maxItems\": 2", "[null, 1, 1]"));
    CHECK_FALSE(m.accepts(R"({"prefixItems": [{"type": "null"}], "items": false})", "[null, 1]"));
}

TEST_CASE("a string's length is in characters, escapes included", "[grammar]") {
    Model m;
    const std::string schema = R"({"type": "string", "minLength": 2, "maxLength": 3})";
    for (const char* text : {"\"ab\"", "\"中é\"", "\"😀😀😀\"", "\"\\n\\u00e9\"", "\"\\\"\\\\/\"", "\"\\ud7ff\\uE000\""}) CHECK(m.accepts(schema, text));
    for (const char* text : {"\"a\"", "\"中\"", "\"abcd\"", "\"😀😀😀😀\"", "\"\\ud800\\udc00\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"\xc0\x80 \"", "\"\n\n\"", "\"\\x\\x\""})
        CHECK_FALSE(m.accepts(schema, text));
    // Also where one token has several characters.
    const auto c = m.begin(schema);
    c->accept('"');
    c->accept('x');
    for (const TokenId id : m.allowed(*c)) CHECK(m.tokenizer.piece(id) != "abc");
}

TEST_CASE("numbers within bounds, digit by digit", "[grammar]") {
    Model m;
    std::vector<std::string> texts;
    const std::string alphabet = "-01259.";
    std::vector<std::string> open{""};
    for (int length = 1; length <= 5; ++length) {
        std::vector<std::string> next;
        for (const std::string& t : open)
            for (const char c : alphabet) next.push_back(t + c);
        texts.insert(texts.end(), next.begin(), next.end());
        open = std::move(next);
    }
    const auto plain = [](const std::string& t, bool integer) {  // JSON's grammar, without exponents and -0
        std::size_t i = t[0] == '-';
        const std::size_t first = i;
        while (i < t.size() && t[i] >= '0' && t[i] <= '9') ++i;
        if (i == first || (t[first] == '0' && i > first + 1)) return false;
        if (i < t.size() && (t[i++] != '.' || integer || i == t.size())) return false;
        return t.find_first_not_of("0123456789", i) == t.npos && !(t[0] == '-' && t.find_first_not_of("-0.") == t.npos);
    };
    struct Range {
        const char* keywords;
        double low, high;
        bool open_low, open_high;
    };
    const double infinite = 1e300;
    for (const Range& r : {Range{"\"minimum\": 5, \"maximum\": 120", 5, 120, false, false}, Range{"\"exclusiveMinimum\": -12.5, \"maximum\": 0.2", -12.5, 0.2, true, false},
                           Range{"\"minimum\": -5.05, \"exclusiveMaximum\": -0.1", -5.05, -0.1, false, true}, Range{"\"minimum\": 1e2", 100, infinite, false, false},
                           Range{"\"exclusiveMaximum\": 0", -infinite, 0, false, true}, Range{"\"exclusiveMinimum\": 0, \"maximum\": 1000", 0, 1000, true, false},
                           Range{"\"minimum\": 1.05, \"maximum\": 1.25", 1.05, 1.25, false, false}})
        for (const bool integer : {false, true}) {
            const std::string schema = std::string(R"({"type": ")") + (integer ? "integer" : "number") + "\", " + r.keywords + "}";
            INFO(schema);
            if (integer && r.low > 1 && r.high < 2) {
                CHECK(refusal(m, schema).find("No number") != std::string::npos);
                continue;
            }
            const auto grammar = m.compiler->json_schema(schema);
            for (const std::string& t : texts) {
                const double value = std::atof(t.c_str());
                const bool within = (r.open_low ? value > r.low : value >= r.low) && (r.open_high ? value < r.high : value <= r.high);
                const auto c = Grammar::begin(grammar);
                bool taken = true;
                for (std::size_t i = 0; i < t.size() && taken; ++i) {
                    const auto mask = c->mask(Model::plenty);
                    const auto id = static_cast<std::size_t>(t[i]);
                    taken = mask[id / 64] >> (id % 64) & 1;
                    if (taken) c->accept(t[i]);
                }
                if (taken) {
                    const auto mask = c->mask(Model::plenty);
                    const auto end = static_cast<std::size_t>(m.tokenizer.end());
                    taken = mask[end / 64] >> (end % 64) & 1;
                }
                if (taken != (plain(t, integer) && within)) FAIL_CHECK(t);
            }
        }
    CHECK(m.accepts(R"({"type": "number"})", "-0.5e+10"));
    CHECK_FALSE(m.accepts(R"({"type": "number"})", "1234567890123456"));
}

TEST_CASE("patterns", "[grammar]") {
    Model m;
    const auto matches = [&](const std::string& pattern, const std::string& text) {
        return m.accepts("{\"type\": \"string\", \"pattern\": \"" + pattern + "\"}", "\"" + text + "\"");
    };
    CHECK(matches("^a*$", ""));
    CHECK(matches("b", "abc"));
    CHECK_FALSE(matches("b", "ac"));
    CHECK(matches("^a|c$", "abb"));
    CHECK(matches("^a|c$", "bbc"));
    CHECK_FALSE(matches("^a|c$", "bbb"));
    CHECK(matches("^\\\\d{3}-[a-f-]+$", "012-a-f"));
    CHECK_FALSE(matches("^\\\\d{3}$", "0123"));
    CHECK(matches("^(a|b(c|d)?)+$", "abcbda"));
    CHECK(matches("^[^a]$", "中"));
    CHECK(matches("^[^a]$", "\\n"));
    CHECK_FALSE(matches("^.$", "\\n"));
    CHECK(matches("^\\\\u4e2d\\\\x41$", "中A"));
    CHECK(matches("^(ab){2,}?$", "ababab"));
    CHECK_FALSE(matches("^(ab){2,3}$", "abababab"));
    CHECK_FALSE(matches("^(ab){2,3}$", "ab"));
    CHECK(matches("^a{0}b$", "b"));
    CHECK(m.accepts(R"x({"type": "string", "pattern": "^(ab)*$", "minLength": 3, "maxLength": 5})x", "\"abab\""));
    CHECK_FALSE(m.accepts(R"x({"type": "string", "pattern": "^(ab)*$", "minLength": 3, "maxLength": 5})x", "\"ab\""));
    CHECK(refusal(m, R"x({"type": "string", "pattern": "^(ab)*$", "minLength": 3, "maxLength": 3})x") == "/pattern No string satisfies the pattern and the length.");
}

TEST_CASE("what isn't supported is refused where it stands", "[grammar]") {
    Model m;
    for (const auto& [schema, begins] : std::vector<std::pair<std::string, std::string>>{
             {R"({"not": {}})", "/not The keyword 'not'"},
             {R"({"properties": {"a/b": {"items": {"if": {}}}}})", "/properties/a~1b/items/if The keyword 'if'"},
             {R"({"uniqueItems": true, "type": "array"})", "/uniqueItems "},
             {R"({"anyOf": [{"type": "null"}, {"patternProperties": {}}]})", "/anyOf/1/patternProperties "},
             {R"({"$ref": "#/$defs/x", "$defs": {"x": {"multipleOf": 3}}})", "/$defs/x/multipleOf "},
             {R"({"$ref": "https://example.com/x"})", "/$ref Only references within"},
             {R"({"$ref": "#/$defs/none"})", "/$ref '#/$defs/none' isn't in the schema"},
             {R"({"$ref": "#"})", " A $ref leads back to itself"},
             {R"({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}})", " A $ref leads back to itself"},
             {R"({"allOf": [{"$ref": "#"}]})", "/allOf/0 '$ref' and 'allOf' are nested too deeply"},
             {R"({"type": "array", "items": {"$ref": "#"}, "minItems": 1})", " Nothing that this model can write"},
             {R"({"type": "text"})", "/type "},
             {R"({"type": ["string", 3]})", "/type "},
             {R"({"enum": 3})", "/enum "},
             {R"({"enum": ["a"], "type": "integer"})", " No value of 'enum'"},
             {R"({"const": "a", "maxLength": 3})", "/maxLength "},
             {R"({"minLength": 3, "maxLength": 2})", " 'minLength' is larger"},
             {R"({"minLength": -1})", "/minLength "},
             {R"({"minItems": 1.5})", "/minItems "},
             {R"({"minimum": "3"})", "/minimum "},
             {R"({"minimum": 3, "exclusiveMaximum": 3})", " No number"},
             {R"({"items": [{}]})", "/items "},
             {R"({"items": false, "minItems": 1})", " 'minItems' asks for more"},
             {R"({"properties": {"a": false}, "required": ["a"]})", "/properties/a "},
             {R"({"properties": {}, "required": ["a"], "additionalProperties": false})", "/required "},
             {R"({"properties": {"a": 3}})", "/properties/a A schema must be"},
             {R"({"minProperties": 1})", "/minProperties "},
             {R"({"oneOf": [{"type": "string"}, {"maxLength": 3}]})", "/oneOf 'oneOf' is supported where"},
             {R"({"oneOf": [{"type": "number"}, {"type": "integer"}]})", "/oneOf 'oneOf' is supported where"},
             {R"({"format": "iri"})", "/format The format isn't supported"},
             {R"x({"pattern": "(?=a)"})x", "/pattern The pattern isn't supported: it has a group that looks"},
             {R"x({"pattern": "(a)\\1"})x", "/pattern The pattern isn't supported: it has a reference"},
             {R"x({"pattern": "a\\b"})x", "/pattern The pattern isn't supported: it has the escape \\b"},
             {R"x({"pattern": "a^"})x", "/pattern "},
             {R"x({"pattern": "(a"})x", "/pattern "},
             {R"x({"pattern": "a)"})x", "/pattern "},
             {R"x({"pattern": "[a"})x", "/pattern "},
             {R"x({"pattern": "[b-a]"})x", "/pattern "},
             {R"x({"pattern": "a**"})x", "/pattern "},
             {R"x({"pattern": "*a"})x", "/pattern "},
             {R"x({"pattern": "a{2,1}"})x", "/pattern "},
             {R"x({"pattern": "\\"})x", "/pattern "},
             {R"x({"pattern": "\\p{L}"})x", "/pattern "},
             {"[]", " A schema must be"},
             {"{", " The schema is no valid JSON"},
             {"false", " Nothing satisfies"},
         }) {
        INFO(schema);
        const std::string got = refusal(m, schema);
        CHECK(got.substr(0, begins.size()) == begins);
    }
}

TEST_CASE("what is too large is refused before it takes long", "[grammar]") {
    Model m;
    const auto nested = [](int depth, const std::string& open, const std::string& inner, const std::string& close) {
        std::string out;
        for (int i = 0; i < depth; ++i) out += open;
        out += inner;
        for (int i = 0; i < depth; ++i) out += close;
        return out;
    };
    CHECK(refusal(m, nested(1000, R"({"items":)", "{}", "}")).find("no valid JSON") != std::string::npos);
    CHECK(refusal(m, nested(30, R"({"items":)", "{}", "}")) == "compiled");
    CHECK(refusal(m, R"x({"pattern": "(a{1000}){1000}"})x").find("too large") != std::string::npos);
    CHECK(refusal(m, R"x({"pattern": "((((((((((a{9}){9}){9}){9}){9}){9}){9}){9}){9}){9}){9}"})x").find("too large") != std::string::npos);
    CHECK(refusal(m, R"x({"pattern": "(a|b)*a(a|b){30}"})x").find("too complex") != std::string::npos);
    CHECK(refusal(m, R"({"pattern": ")" + nested(1000, "(", "a", ")") + "\"}").find("nested groups") != std::string::npos);
    CHECK(refusal(m, R"x({"pattern": "^[a-z]*$", "maxLength": 1000000})x").find("too complex") != std::string::npos);
    CHECK(refusal(m, R"({"maxItems": 1000000000, "minLength": 0, "maxLength": 1000000000})") == "compiled");
    // Alternatives of alternatives: the rules stay few, and so do the places that are followed.
    std::string defs;
    for (int i = 0; i < 40; ++i) {
        const std::string next = "{\"$ref\": \"#/$defs/d" + std::to_string(i + 1) + "\"}";
        defs += "\"d" + std::to_string(i) + R"(": {"anyOf": [{"type": "array", "items": )" + next + R"(, "maxItems": 1}, {"type": "array", "items": )" + next + R"(, "maxItems": 2}]}, )";
    }
    const std::string exponential = "{\"$ref\": \"#/$defs/d0\", \"$defs\": {" + defs + "\"d40\": {\"type\": \"null\"}}}";
    const auto c = m.begin(exponential);
    for (int i = 0; i < 40; ++i) {
        REQUIRE(m.allowed(*c).contains('['));
        c->accept('[');
    }
    CHECK(m.allowed(*c).contains('n'));
    // allOf of anyOfs multiplies out.
    std::string all;
    for (int i = 0; i < 12; ++i) all += (i ? "," : "") + std::string(R"({"anyOf": [{"minLength": )") + std::to_string(i) + "}, {\"maxLength\": " + std::to_string(100 + i) + "}]}";
    CHECK(refusal(m, "{\"allOf\": [" + all + "]}").find("combinations") != std::string::npos);
    std::string properties;
    for (int i = 0; i < 3000; ++i) properties += (i ? ",\"p" : "\"p") + std::to_string(i) + "\": {\"maxLength\": " + std::to_string(i) + "}";
    CHECK(refusal(m, "{\"properties\": {" + properties + "}}") == "compiled");
    for (int i = 0; i < 3000; ++i) properties += ",\"q" + std::to_string(i) + "\": {\"pattern\": \"^[a-z]{" + std::to_string(i) + "}x\"}";
    CHECK(refusal(m, "{\"properties\": {" + properties + "}}").find("too complex") != std::string::npos);
}

TEST_CASE("an answer is brought to its end before its tokens run out", "[grammar]") {
    Model m;
    std::mt19937_64 random(7);
    for (const char* schema : {R"({"type": "object", "properties": {"name": {"type": "string"}, "list": {"type": "array", "items": {"$ref": "#"}}, "n": {"type": "number"}}, "required": ["name", "list"]})",
                               R"({"type": "array", "items": {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2}, "minItems": 2})", R"({})",
                               R"({"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 2}, {"const": "abcabc"}]})", R"({"type": "object"})"}) {
        const auto grammar = m.compiler->json_schema(schema);
        const int least = grammar->least_tokens();
        INFO(schema << " needs " << least);
        CHECK(least >= 1);
        for (int tokens = least; tokens < least + 30; ++tokens)
            for (int round = 0; round < 20; ++round) {
                const auto c = Grammar::begin(grammar);
                int left = tokens;
                bool ended = false;
                for (; left > 0 && !c->finished(); --left) {
                    const std::set<TokenId> allowed = m.allowed(*c, left);
                    REQUIRE_FALSE(allowed.empty());
                    const TokenId id = *std::next(allowed.begin(), static_cast<std::ptrdiff_t>(random() % allowed.size()));
                    if ((ended = id == m.tokenizer.end())) break;
                    c->accept(id);
                }
                REQUIRE((ended || c->finished() || m.may_end(*c)));
            }
        // With too few tokens nothing is hurried, and nothing is refused.
        if (least > 1) CHECK(m.allowed(*Grammar::begin(grammar), least - 1).size() > 0);
    }
}

TEST_CASE("calls of tools: their arguments are constrained, text isn't", "[grammar]") {
    Model m;
    const std::vector<ToolSchema> tools = {{"na", R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x"]}}, "required": ["a"]})"},
                                           {"name", R"({"type": "object", "properties": {}})"}};
    const auto takes = [&](const CallForm& form, const std::string& text) {
        const auto c = Grammar::begin(m.compiler->tool_calls(tools, form));
        for (std::size_t i = 0; i < text.size(); ++i) {
            if (c->mask(Model::plenty).empty()) return std::string("free");
            const TokenId id = text[i] == '@' ? m.tokenizer.end() + 1 : static_cast<unsigned char>(text[i]);  // @: <|assistant|>
            if (!m.allowed(*c).contains(id)) return "stops at " + std::to_string(i);
            c->accept(id);
        }
        return std::string(c->finished() ? "done" : c->mask(Model::plenty).empty() ? "free" : m.may_end(*c) ? "may end" : "goes on");
    };
    using Kind = CallForm::Kind;
    const CallForm line{Kind::name_line}, must{Kind::name_line, true, false};
    CHECK(takes(line, "\nHi") == "free");
    CHECK(takes(line, "nab") == "free");
    CHECK(takes(line, "na") == "may end");
    CHECK(takes(line, " na\n{\"a\": 12}") == "may end");
    CHECK(takes(line, "na\n{\"a\": \"") == "stops at 9");
    CHECK(takes(line, "na\n{\"a\": 1, \"b\": \"x\"}@name\n{}") == "may end");
    CHECK(takes(line, "na\n{\"a\": 1}@x") == "stops at 12");
    CHECK(takes(must, "name\n{}") == "done");
    CHECK(takes(must, "\nHi") == "stops at 0");
    CHECK(takes(must, "nab") == "stops at 2");
    const CallForm python{Kind::python};
    CHECK(takes(python, "na\n ```python\ntool_call(a=1, b=\"x\")\n```") == "may end");
    CHECK(takes(python, "na\n ```python\ntool_call(b=") == "stops at 24");
    CHECK(takes(python, "name\n ```python\ntool_call()\n```") == "may end");
    CHECK_THROWS_AS(m.compiler->tool_calls(std::vector<ToolSchema>{{"f", R"({"properties": {"a-b": {}}})"}}, python), SchemaError);
    const CallForm generic{Kind::json}, only{Kind::json, true, false};
    CHECK(takes(generic, "Hi <tool") == "may end");
    CHECK(takes(generic, "Hi <<tool_call>\n{\"name\": \"na\", \"arguments\": {\"a\": 1}}\n</tool_call>") == "may end");
    CHECK(takes(generic, "<tool_call>\n{\"name\": \"x") == "stops at 22");
    CHECK(takes(only, "<tool_call>\n{\"name\": \"name\", \"arguments\": {}}\n</tool_call>") == "done");
    CHECK(takes(only, "Hi") == "stops at 0");
    // A schema for the text: then there is either text or calls.
    for (const Kind kind : {Kind::name_line, Kind::python, Kind::json}) {
        CallForm form{kind};
        form.text = R"({"enum": [12, "<tool_call>", "na\n"]})";
        for (const char* text : {"12", "\n  12", "\"<tool_call>\"", "\"na\\n\""}) CHECK(takes(form, text) == "done");
        CHECK(takes(form, "Hi") == "stops at 0");
        CHECK(takes(form, kind == Kind::json ? " <tool_call>\n{\"name\": \"name\", \"arguments\": {}}\n</tool_call>" :
                          kind == Kind::python ? " name\n ```python\ntool_call()\n```" : " name\n{}") == "may end");
        form.calls_only = true;
        CHECK(takes(form, "12") == "stops at 0");
        form.text = R"({"items": {"not": {}}})";
        try {
            m.compiler->tool_calls(tools, form);
            FAIL("compiled");
        } catch (const SchemaError& e) {
            CHECK(e.pointer == "/text/items/not");
        }
    }
    try {
        m.compiler->tool_calls(std::vector<ToolSchema>{tools[0], {"f", R"({"properties": {"a": {"not": {}}}})"}}, generic);
        FAIL("compiled");
    } catch (const SchemaError& e) {
        CHECK(e.pointer == "/1/properties/a/not");
    }
    CHECK_THROWS_AS(m.compiler->tool_calls(std::vector<ToolSchema>{{"f", R"({"type": "string"})"}}, generic), SchemaError);
}

TEST_CASE("a schema is compiled once", "[grammar]") {
    Model m;
    const auto one = m.compiler->json_schema(R"({"type": "null"})"), two = m.compiler->json_schema(R"({"type": "null"})");
    CHECK(one == two);
    CHECK(one != m.compiler->json_schema(R"({"type": "boolean"})"));
}
