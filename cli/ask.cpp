#include <CLI/CLI.hpp>
#include <iostream>

#include "cli/app.h"
#include "cli/client.h"
#include "cli/respond.h"
#include "cli/terminal.h"

namespace glmd {

namespace {

struct AskOptions {
    std::vector<std::string> words;
    std::string session, system;
    int max_tokens = 0;
    double temperature = -1;
};

Exit run_ask(const Globals& globals, const AskOptions& options) {
    const Terminal terminal(globals.no_color);
    std::string prompt;
    for (const std::string& word : options.words) prompt += (prompt.empty() ? "" : " ") + word;
    std::string input = piped_input();
    while (!input.empty() && input.back() == '\n') input.pop_back();
    if (!input.empty()) prompt += (prompt.empty() ? "" : "\n\n") + input;
    if (prompt.empty()) throw CliError(Exit::usage, "nothing to ask: give a question, or text on standard input");
    if (!valid_utf8(prompt)) throw CliError(Exit::usage, "the question isn't UTF-8 text (iconv -t UTF-8 converts it)");

    Client client(globals.socket);
    json::object request{{"input", prompt}, {"stream", true}};
    if (options.session.empty()) request["store"] = false;
    else request["conversation"] = resolve_session(client, options.session);
    if (!options.system.empty()) request["instructions"] = options.system;
    if (options.max_tokens > 0) request["max_output_tokens"] = options.max_tokens;
    if (options.temperature >= 0) request["temperature"] = options.temperature;

    const bool direct = terminal.out_is_terminal();
    bool started = false;
    Answer answer;
    try {
        answer = respond(client, terminal, request, [&](std::string_view delta) {
            if (globals.json) return;
            std::cout << (direct ? printable(delta) : std::string(delta)) << std::flush;
            started = true;
        });
    } catch (...) {
        if (started) std::cout << std::endl;  // the error starts on its own line
        throw;
    }
    if (globals.json) std::cout << json::serialize(answer.response) << '\n';
    else if (answer.text.empty() || answer.text.back() != '\n') std::cout << '\n';
    if (answer.incomplete && !globals.json) {
        std::cout.flush();
        std::cerr << terminal.paint_error("glm: the answer is cut off" +
                                              (answer.incomplete_reason.empty() ? "" : " (" + answer.incomplete_reason + ")"),
                                          Style::warn)
                  << '\n';
    }
    return Exit::ok;
}

}  // namespace

void add_ask(CLI::App& app, Globals& globals, Action& action) {
    auto options = std::make_shared<AskOptions>();
    CLI::App* sub = app.add_subcommand("ask", "ask one question; the answer goes to standard output");
    sub->add_option("question", options->words, "the question; piped standard input is added to it");
    sub->add_option("--session", options->session, "ask within a session (its id, or 'last'); else nothing is stored");
    sub->add_option("--system", options->system, "instructions to the model");
    sub->add_option("--max-tokens", options->max_tokens, "longest answer, in tokens")->check(CLI::PositiveNumber);
    sub->add_option("--temperature", options->temperature, "0 (always the likeliest) to 2")->check(CLI::Range(0.0, 2.0));
    sub->footer(
        "Examples:\n"
        "  glm ask \"Why is the sky blue?\"\n"
        "  cat report.txt | glm ask \"Summarise this in three sentences\"\n"
        "  glm ask --system \"Answer in Chinese\" --temperature 0 \"What is a daemon?\"\n"
        "  glm ask --session last \"And in one word?\"\n"
        "  glm ask --json \"Hello\" | jq .usage");
    sub->callback([&globals, &action, options] { action = [&globals, options] { return run_ask(globals, *options); }; });
}

}  // namespace glmd
