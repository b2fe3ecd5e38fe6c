// The text goes out whole when all its blanks are filled: until then nobody knows whether it will be.
#include <CLI/CLI.hpp>
#include <iostream>

#include "cli/app.h"
#include "cli/client.h"
#include "cli/terminal.h"

namespace glmd {

namespace {

struct InfillOptions {
    std::vector<std::string> words;
    std::string mask;
    int max_tokens = 0;
    double temperature = -1;
};

Exit run_infill(const Globals& globals, const InfillOptions& options) {
    const Terminal terminal(globals.no_color);
    std::string text;
    for (const std::string& word : options.words) text += (text.empty() ? "" : " ") + word;
    if (text.empty()) {
        text = piped_input();
        while (!text.empty() && text.back() == '\n') text.pop_back();
    }
    if (text.empty()) throw CliError(Exit::usage, "nothing to fill: give a text with [MASK] in it, or pipe it to standard input");
    if (!valid_utf8(text)) throw CliError(Exit::usage, "the text isn't UTF-8 (iconv -t UTF-8 converts it)");

    Client client(globals.socket);
    json::object request{{"text", text}, {"stream", true}};
    if (!options.mask.empty()) request["mask"] = options.mask;
    if (options.max_tokens > 0) request["max_tokens"] = options.max_tokens;
    if (options.temperature >= 0) request["temperature"] = options.temperature;

    json::object filled;
    with_loading_wait(terminal, [&] {
        Spinner spinner(terminal);
        spinner.say("filling blank 1");
        client.stream(
            "/v1/glm/infill", request,
            [&](std::string_view event, const json::object& data) {
                if (event == "glm.model.loading") spinner.say(describe_loading(data));
                if (event == "glm.infill.delta") spinner.say("filling blank " + std::to_string(number_of(data, "blank") + 1));
                const json::object* infill = object_of(data, "infill");
                if (event == "glm.infill.completed" && infill) filled = *infill;
            },
            [&] { spinner.tick(); });
        if (filled.empty()) throw CliError(Exit::error, "the daemon closed the connection before all blanks were filled");
    });
    if (globals.json) {
        std::cout << json::serialize(filled) << '\n';
        return Exit::ok;
    }
    const std::string out = text_of(filled, "text");
    std::cout << (terminal.out_is_terminal() ? printable(out) : out) << '\n';
    return Exit::ok;
}

}  // namespace

void add_infill(CLI::App& app, Globals& globals, Action& action) {
    auto options = std::make_shared<InfillOptions>();
    CLI::App* sub = app.add_subcommand("infill", "fill the blanks of a text, from left to right (GLM, GLM-130B, ChatGLM-6B)");
    sub->add_option("text", options->words, "the text, else standard input; [MASK] some words, [sMASK] a sentence, [gMASK] a passage");
    sub->add_option("--mask", options->mask, "another mark for blanks, for a text that has [MASK] in it");
    sub->add_option("--max-tokens", options->max_tokens, "longest answer of each blank, in tokens")->check(CLI::PositiveNumber);
    sub->add_option("--temperature", options->temperature, "0 (always the likeliest) to 2")->check(CLI::Range(0.0, 2.0));
    sub->footer(
        "Examples:\n"
        "  glm infill \"Ng Ong is a [MASK] in Kuala Lumpur. He likes [MASK].\"\n"
        "  glm infill --mask ___ --temperature 0 \"Water boils at ___ degrees.\"\n"
        "  cat letter.txt | glm infill --max-tokens 200\n"
        "  glm infill --json \"Why? [sMASK]\" | jq .blanks");
    sub->callback([&globals, &action, options] { action = [&globals, options] { return run_infill(globals, *options); }; });
}

}  // namespace glmd
