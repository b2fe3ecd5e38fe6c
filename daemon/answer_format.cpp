#include "daemon/answer_format.h"

#include "engine/grammar.h"

namespace glmd {
namespace {

constexpr std::size_t longest_schema = 256 << 10;

/// {type, and name, schema, … either beside it or within `wrapper`}
AnswerFormat read(const json::object& object, const std::string& at, const char* wrapper) {
    Parameters outer(object, at);
    AnswerFormat format;
    const std::string type = outer.text("type").value_or("");
    if (type == "json_object") {
        format = {R"({"type":"object"})", at};
    } else if (type == "json_schema") {
        const auto schema_of = [&](Parameters& inner) {
            inner.ignore({"name", "description", "strict"});
            const json::value* schema = inner.any("schema");
            if (!schema) throw bad_parameter(inner.path("schema"), "'" + inner.path("schema") + "' is missing.", "missing_required_parameter");
            format = {json::serialize(*schema), inner.path("schema")};
            if (format.schema.size() > longest_schema)
                throw bad_parameter(format.param, "The schema has more than " + std::to_string(longest_schema >> 10) + " KiB.");
        };
        if (wrapper) {
            const json::object* inside = outer.object(wrapper);
            if (!inside) throw bad_parameter(outer.path(wrapper), "'" + outer.path(wrapper) + "' is missing.", "missing_required_parameter");
            Parameters inner(*inside, outer.path(wrapper));
            schema_of(inner);
            inner.finish();
        } else {
            schema_of(outer);
        }
    } else if (type != "text") {
        throw bad_parameter(outer.path("type"), "'" + outer.path("type") + "' must be text, json_object or json_schema.");
    }
    outer.finish();
    return format;
}

}  // namespace

AnswerFormat read_response_format(Parameters& parameters) {
    const json::object* object = parameters.object("response_format");
    return object ? read(*object, "response_format", "json_schema") : AnswerFormat{};
}

AnswerFormat read_text_format(Parameters& parameters) {
    const json::object* text = parameters.object("text");
    if (!text) return {};
    Parameters inner(*text, "text");
    const json::object* format = inner.object("format");
    inner.ignore({"verbosity"});
    inner.finish();
    return format ? read(*format, "text.format", nullptr) : AnswerFormat{};
}

asio::awaitable<std::shared_ptr<const Grammar>> compile(Application& app, std::shared_ptr<Engine> engine, const AnswerFormat& format) {
    if (format.schema.empty()) co_return nullptr;
    auto work = [&engine, &format] {
        try {
            return engine->grammars().json_schema(format.schema);
        } catch (const SchemaError& e) {
            const std::string where = e.pointer.empty() ? "" : " (at " + e.pointer + ")";
            throw bad_parameter(format.param + e.pointer, e.what() + where, "unsupported_schema");
        }
    };
    std::shared_ptr<const Grammar> grammar = co_await run_on(app.text_pool, work);
    co_return grammar;
}

}  // namespace glmd
