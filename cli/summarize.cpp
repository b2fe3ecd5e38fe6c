// The bar and all remarks go to stderr; stdout has the summary alone. Ctrl-C closes the connection, which ends the work; what is done by
// then the daemon keeps, so that the same command goes on from there.
#include <CLI/CLI.hpp>
#include <iostream>

#include "cli/app.h"
#include "cli/client.h"
#include "cli/document.h"
#include "cli/terminal.h"

namespace glmd {

namespace {

struct SummarizeOptions {
    std::vector<std::string> files;
    std::string type, length, language, context, strategy, tier, encoding, format, model;
    bool private_ = false, background = false, forget = false;
};

std::string bar(std::int64_t done, std::int64_t total, int width) {
    const auto filled = static_cast<int>(total > 0 ? done * width / total : 0);
    std::string out;
    for (int i = 0; i < width; ++i) out += i < filled ? "█" : "░";
    return out;
}

std::string describe(const json::object& progress) {
    const std::string stage = text_of(progress, "stage");
    const std::int64_t done = number_of(progress, "done"), total = number_of(progress, "total");
    if (stage == "final") return "writing the summary";
    std::string line = (stage == "reading" ? "reading " : stage == "parts" ? "summarizing " : "combining ") + bar(done, total, 24);
    if (stage == "reading") line += " " + std::to_string(total > 0 ? done * 100 / total : 0) + " %";
    else line += " " + std::to_string(done) + "/" + std::to_string(total);
    if (const json::value* left = progress.if_contains("seconds_left"); left && left->is_number())
        line += ", " + human_seconds(static_cast<double>(number_of(progress, "seconds_left"))) + " left";
    return line;
}

json::value read_input(const Terminal& terminal, const SummarizeOptions& options) {
    std::vector<std::string> files = options.files;
    if (files.empty()) {
        if (terminal.in_is_terminal()) throw CliError(Exit::usage, "nothing to summarize: name files, or pipe a text to standard input");
        files.push_back("-");
    }
    const DocumentFormat format = options.format == "html" ? DocumentFormat::html
                                  : options.format == "text" || options.format == "markdown" ? DocumentFormat::text
                                                                                             : DocumentFormat::automatic;
    json::array texts;
    for (const std::string& file : files) {
        const Document document = read_document(read_bytes(file), file, options.encoding, format);
        if (!document.guess.empty())
            std::cerr << terminal.paint_error("glm: " + printable(file) + " is read as " + document.guess + " (else give --encoding)", Style::dim) << '\n';
        texts.emplace_back(files.size() > 1 && file != "-" ? "# " + file.substr(file.rfind('/') + 1) + "\n\n" + document.text : document.text);
    }
    return texts.size() == 1 ? texts.front() : json::value(std::move(texts));
}

Exit run_summarize(const Globals& globals, const SummarizeOptions& options) {
    const Terminal terminal(globals.no_color);
    Client client(globals.socket);
    if (options.forget) {
        const json::value answer = client.remove("/v1/glm/summaries");
        if (globals.json) std::cout << json::serialize(answer) << '\n';
        return Exit::ok;
    }
    json::object request{{"input", read_input(terminal, options)}};
    const auto set = [&](const char* name, const std::string& value) {
        if (!value.empty()) request[name] = value;
    };
    set("type", options.type);
    set("language", options.language);
    set("context", options.context);
    set("strategy", options.strategy);
    set("service_tier", options.tier);
    set("model", options.model);
    if (!options.length.empty()) {
        if (options.length.find_first_not_of("0123456789") == options.length.npos && options.length.size() < 9) request["length"] = std::stoi(options.length);
        else request["length"] = options.length;
    }
    if (options.private_) request["store"] = false;
    if (options.background) {
        request["background"] = true;
        const json::value begun = client.post("/v1/glm/summaries", request);
        std::cout << (globals.json ? json::serialize(begun) : text_of(as_object(begun), "id")) << '\n';
        return Exit::ok;
    }
    request["stream"] = true;

    json::object result;
    try {
        with_loading_wait(terminal, [&] {
            Spinner spinner(terminal);
            spinner.say("sending the text");
            client.stream(
                "/v1/glm/summaries", request,
                [&](std::string_view event, const json::object& data) {
                    if (event == "glm.model.loading") spinner.say(describe_loading(data));
                    if (event == "glm.summary.progress") spinner.say(describe(data));
                    const json::object* summary = object_of(data, "summary");
                    if (summary && event != "glm.summary.created") result = *summary;
                },
                [&] { spinner.tick(); });
        });
    } catch (const CliError& e) {
        if (!options.private_ && (e.exit == Exit::interrupted || e.exit == Exit::unreachable))
            std::cerr << terminal.paint_error("glm: what is done so far is kept: the same command goes on from there", Style::dim) << '\n';
        throw;
    }
    if (result.empty()) throw CliError(Exit::error, "the daemon closed the connection before the summary was complete; the same command goes on from there");
    if (globals.json) {
        std::cout << json::serialize(result) << '\n';
    } else if (const std::string out = text_of(result, "summary"); !out.empty()) {
        std::cout << (terminal.out_is_terminal() ? printable(out) : out) << '\n';
    }
    const std::string status = text_of(result, "status");
    if (status != "completed") {
        if (!globals.json) std::cerr << terminal.paint_error("glm: the summary was " + (status == "cancelled" ? status : "interrupted") +
                                                             "; the same command goes on from there", Style::warn) << '\n';
        return Exit::error;
    }
    if (text_of(result, "finish_reason") == "length" && !globals.json) {
        std::cout.flush();
        std::cerr << terminal.paint_error("glm: the model didn't come to an end; the summary stops at its last whole sentence", Style::warn) << '\n';
    }
    return Exit::ok;
}

}  // namespace

void add_summarize(CLI::App& app, Globals& globals, Action& action) {
    auto options = std::make_shared<SummarizeOptions>();
    CLI::App* sub = app.add_subcommand("summarize", "summarize texts of any length (text, Markdown, HTML)");
    sub->add_option("files", options->files, "files that become one summary; - or none: standard input");
    sub->add_option("--type", options->type, "tldr (unless told), key_points, headline or abstract")->check(CLI::IsMember({"tldr", "key_points", "headline", "abstract"}));
    sub->add_option("--length", options->length, "sentence, short, medium (unless told), long, or at most so many words (Chinese: characters)");
    sub->add_option("--language", options->language, "of the summary, like English or zh; unless told the text's own");
    sub->add_option("--context", options->context, "what the text is about, or what matters: every prompt has it");
    sub->add_option("--strategy", options->strategy, "map_reduce: parts at once (unless told); refine: one after another")->check(CLI::IsMember({"map_reduce", "refine"}));
    sub->add_option("--tier", options->tier, "flex (unless told: chats go first), default or priority")->check(CLI::IsMember({"flex", "default", "priority"}));
    sub->add_option("--encoding", options->encoding, "of the files, like GB18030 or BIG5; unless told it is found out");
    sub->add_option("--format", options->format, "text, markdown or html; unless told it is found out")->check(CLI::IsMember({"text", "markdown", "html"}));
    sub->add_option("--model", options->model, "another model than the daemon's own");
    sub->add_flag("--private", options->private_, "nothing is stored: an interrupted summary begins anew");
    sub->add_flag("--background", options->background, "print the summary's id and go; GET /v1/glm/summaries/ID has the result");
    sub->add_flag("--forget", options->forget, "remove all that is stored of your summaries");
    sub->footer(
        "Examples:\n"
        "  glm summarize book.txt\n"
        "  glm summarize --length sentence minutes-*.md\n"
        "  pdftotext paper.pdf - | glm summarize --type abstract\n"
        "  glm summarize --type key_points --language zh --context \"for a newcomer\" manual.html\n"
        "  glm summarize --json --length 80 report.txt | jq .chunks\n"
        "An interrupted summary goes on where it was when the command is given again; of an edited text only what changed is done anew.");
    sub->callback([&globals, &action, options] { action = [&globals, options] { return run_summarize(globals, *options); }; });
}

}  // namespace glmd
