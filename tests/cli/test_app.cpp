#include <CLI/CLI.hpp>
#include <catch2/catch.hpp>

#include "cli/app.h"
#include "cli/client.h"

using namespace glmd;

namespace {
int run(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "glm");
    return run_app(static_cast<int>(arguments.size()), arguments.data());
}
void check_help(const CLI::App& app) {
    INFO(app.get_name());
    CHECK(app.help().find("Examples:") != std::string::npos);
    CHECK_FALSE(app.get_description().empty());
    for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) check_help(*sub);
}
}  // namespace

TEST_CASE("errors of the daemon have their exit codes") {
    CHECK(exit_for(400, "context_length_exceeded") == Exit::too_long);
    CHECK(exit_for(413, "") == Exit::too_long);
    CHECK(exit_for(503, "insufficient_memory") == Exit::no_memory);
    CHECK(exit_for(503, "model_loading") == Exit::busy);
    CHECK(exit_for(503, "no_model") == Exit::error);
    CHECK(exit_for(409, "conversation_busy") == Exit::busy);
    CHECK(exit_for(429, "queue_full") == Exit::busy);
    CHECK(exit_for(429, "quota_exceeded") == Exit::busy);
    CHECK(exit_for(403, "") == Exit::denied);
    CHECK(exit_for(404, "not_found") == Exit::error);
    CHECK(exit_for(0, "insufficient_memory") == Exit::no_memory);  // in the middle of a stream
}

TEST_CASE("every command's help has examples") {
    Globals globals;
    Action action;
    check_help(*make_app(globals, action));
}

TEST_CASE("exit codes without a daemon") {
    CHECK(run({"--help"}) == 0);
    CHECK(run({"ask", "--help"}) == 0);
    CHECK(run({}) == 2);
    CHECK(run({"nonsense"}) == 2);
    CHECK(run({"ask", "--temperature", "9", "x"}) == 2);
    CHECK(run({"session", "show", "../models"}) == 2);
    CHECK(run({"--socket", "/nonexistent/glmd.sock", "status"}) == 3);
    CHECK(run({"status", "--socket", "/nonexistent/glmd.sock", "--json"}) == 3);  // global options after the command
    CHECK(run({"model", "info", "/nonexistent.gguf"}) == 1);
}
