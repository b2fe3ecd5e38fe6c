// Sessions as JSON Lines: the first line is the conversation, every other one an item in OpenAI's shape, so that a file
// can be read with jq and imported on another machine. Ids aren't imported: the copy is a new session.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>

#include "cli/app.h"
#include "cli/client.h"
#include "cli/respond.h"
#include "cli/terminal.h"

namespace glmd {

namespace {

struct SessionOptions {
    std::string id, file;
    std::vector<std::string> ids;
    bool force = false;
};

Exit run_list(const Globals& globals) {
    const Terminal terminal(globals.no_color);
    Client client(globals.socket);
    const json::array sessions = list_sessions(client);
    if (globals.json) {
        std::cout << json::serialize(sessions) << '\n';
        return Exit::ok;
    }
    if (sessions.empty()) {
        std::cerr << "no sessions yet; glm chat starts one\n";
        return Exit::ok;
    }
    int id_width = 2;
    for (const json::value& value : sessions) id_width = std::max(id_width, display_width(text_of(value.get_object(), "id")));
    const int rest = terminal.out_is_terminal() ? std::max(10, terminal.columns() - id_width - 28) : 200;
    std::cout << terminal.paint(pad("ID", id_width) + "  " + pad("LAST USED", 16) + "  " + pad("ITEMS", 5) + "  TEXT", Style::bold)
              << '\n';
    for (const json::value& value : sessions) {
        const json::object& session = value.get_object();
        const json::object none;
        const json::object* extension = object_of(session, "glm");
        const json::object& glm = extension ? *extension : none;
        const json::object* metadata = object_of(session, "metadata");
        std::string text = metadata ? text_of(*metadata, "title") : "";
        if (text.empty()) text = text_of(glm, "preview");
        std::cout << pad(printable(text_of(session, "id")), id_width) << "  "
                  << pad(human_time(number_of(glm, "updated_at", number_of(session, "created_at"))), 16) << "  "
                  << pad(std::to_string(number_of(glm, "items")), 5) << "  " << fit(text, rest) << '\n';
    }
    return Exit::ok;
}

Exit run_show(const Globals& globals, const SessionOptions& options) {
    const Terminal terminal(globals.no_color);
    Client client(globals.socket);
    const std::string id = resolve_session(client, options.id);
    if (globals.json) {
        json::object whole = as_object(client.get(session_path(id)));
        json::array items;
        each_item(client, id, [&](const json::object& item) { items.push_back(item); });
        whole["items"] = std::move(items);
        std::cout << json::serialize(whole) << '\n';
        return Exit::ok;
    }
    bool first = true;
    each_item(client, id, [&](const json::object& item) {
        const std::string text = printable(item_text(item));
        const std::string role = text_of(item, "role", text_of(item, "type"));
        std::cout << (first ? "" : "\n") << terminal.paint(one_line(role) + ":", Style::bold) << '\n' << text;
        if (text.empty() || text.back() != '\n') std::cout << '\n';
        if (text_of(item, "status") == "incomplete") std::cout << terminal.paint("(cut off)", Style::dim) << '\n';
        first = false;
    });
    if (first) as_object(client.get(session_path(id)));  // an unknown id is an error, an empty session isn't
    return Exit::ok;
}

Exit run_rm(const Globals& globals, const SessionOptions& options) {
    const Terminal terminal(globals.no_color);
    Client client(globals.socket);
    std::vector<std::string> ids;
    for (const std::string& id : options.ids) ids.push_back(resolve_session(client, id));
    if (!options.force && terminal.in_is_terminal() && terminal.err_is_terminal()) {
        std::cerr << "delete " << (ids.size() == 1 ? ids[0] : std::to_string(ids.size()) + " sessions") << " for good? [y/N] ";
        std::string answer;
        read_line(answer);
        if (interrupted()) throw CliError(Exit::interrupted, "interrupted");
        if (answer != "y" && answer != "Y" && answer != "yes") return Exit::error;
    }
    for (const std::string& id : ids) client.remove(session_path(id));
    return Exit::ok;
}

void write_all(int fd, std::string_view text, const std::string& name) {
    while (!text.empty()) {
        const ssize_t n = ::write(fd, text.data(), text.size());
        if (n < 0 && errno == EINTR && !interrupted()) continue;
        if (n < 0) throw CliError(Exit::error, "can't write " + name + ": " + std::strerror(errno));
        text.remove_prefix(static_cast<std::size_t>(n));
    }
}

Exit run_export(const Globals& globals, const SessionOptions& options) {
    Client client(globals.socket);
    const std::string id = resolve_session(client, options.id);
    std::string lines = json::serialize(as_object(client.get(session_path(id)))) + "\n";
    each_item(client, id, [&](const json::object& item) { lines += json::serialize(item) + "\n"; });
    if (options.file.empty() || options.file == "-") {
        std::cout << lines;
        return Exit::ok;
    }
    const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (options.force ? O_TRUNC : O_EXCL);
    const int fd = ::open(options.file.c_str(), flags, 0600);  // private text: nobody else's to read
    if (fd < 0)
        throw CliError(Exit::error, errno == EEXIST ? options.file + " exists already (--force overwrites it)"
                                                    : "can't write " + options.file + ": " + std::strerror(errno));
    struct Close {
        int fd;
        ~Close() { ::close(fd); }
    } close{fd};
    write_all(fd, lines, options.file);
    if (::fsync(fd) != 0 && errno != EINVAL && errno != EROFS)
        throw CliError(Exit::error, "can't write " + options.file + ": " + std::strerror(errno));
    return Exit::ok;
}

/// An item as the daemon takes it: without what it assigns itself.
json::object importable(const json::object& item, int line) {
    const std::string role = text_of(item, "role");
    if (text_of(item, "type", "message") != "message" || role.empty())
        throw CliError(Exit::error, "line " + std::to_string(line) + " isn't a message");
    const char* part = role == "assistant" ? "output_text" : "input_text";
    return {{"type", "message"}, {"role", role}, {"content", json::array{json::object{{"type", part}, {"text", item_text(item)}}}}};
}

Exit run_import(const Globals& globals, const SessionOptions& options) {
    std::ifstream file;
    const bool from_stdin = options.file == "-";
    if (!from_stdin) {
        file.open(options.file);
        if (!file) throw CliError(Exit::error, "can't read " + options.file + ": " + std::strerror(errno));
    }
    std::istream& in = from_stdin ? std::cin : file;
    json::object conversation;
    json::array items;
    std::string text;
    for (int line = 1; std::getline(in, text); ++line) {  // all is read and checked before anything is created
        if (text.empty()) continue;
        boost::system::error_code failed;
        json::value value = json::parse(text, failed);
        if (failed || !value.is_object())
            throw CliError(Exit::error, options.file + ": line " + std::to_string(line) + " isn't a JSON object");
        const json::object& object = value.get_object();
        if (text_of(object, "object") == "conversation") conversation = object;
        else items.push_back(importable(object, line));
    }
    if (conversation.empty() && items.empty()) throw CliError(Exit::error, options.file + " holds no session");

    Client client(globals.socket);
    json::object create;
    if (const json::object* metadata = object_of(conversation, "metadata")) create["metadata"] = *metadata;
    const json::value created = client.post("/v1/conversations", create);
    const std::string id = text_of(as_object(created), "id");
    try {
        for (std::size_t at = 0; at < items.size(); at += 20) {  // OpenAI's limit of one request
            json::array some;
            for (std::size_t i = at; i < std::min(items.size(), at + 20); ++i) some.push_back(items[i]);
            client.post(session_path(id) + "/items", json::object{{"items", std::move(some)}});
        }
    } catch (...) {
        try {
            forget_interrupt();
            client.remove(session_path(id));  // no half a session
        } catch (const std::exception&) {
        }
        throw;
    }
    if (globals.json) std::cout << json::serialize(created) << '\n';
    else std::cout << id << '\n';
    return Exit::ok;
}

}  // namespace

void add_session(CLI::App& app, Globals& globals, Action& action) {
    auto options = std::make_shared<SessionOptions>();
    CLI::App* sub = app.add_subcommand("session", "list, show, delete, export and import sessions");
    sub->require_subcommand(1);
    sub->footer(
        "Examples:\n"
        "  glm session list\n"
        "  glm session show last\n"
        "  glm session export last -o talk.jsonl");
    const auto command = [&](const char* name, const char* text, Exit (*run)(const Globals&, const SessionOptions&)) {
        CLI::App* leaf = sub->add_subcommand(name, text);
        leaf->callback([&globals, &action, options, run] { action = [&globals, options, run] { return run(globals, *options); }; });
        return leaf;
    };
    CLI::App* list = command("list", "your sessions, the last used first",
                             [](const Globals& all, const SessionOptions&) { return run_list(all); });
    list->footer("Examples:\n  glm session list\n  glm session list --json | jq -r '.[].id'");

    CLI::App* show = command("show", "the messages of a session", run_show);
    show->add_option("id", options->id, "the session's id, or 'last'")->required();
    show->footer("Examples:\n  glm session show last\n  glm session show --json conv_…");

    CLI::App* rm = command("rm", "delete sessions", run_rm);
    rm->add_option("id", options->ids, "ids, or 'last'")->required();
    rm->add_flag("-f,--force", options->force, "don't ask");
    rm->footer("Examples:\n  glm session rm conv_…\n  glm session rm -f last");

    CLI::App* out = command("export", "a session as JSON Lines", run_export);
    out->add_option("id", options->id, "the session's id, or 'last'")->required();
    out->add_option("-o,--output", options->file, "file to write (else standard output)");
    out->add_flag("-f,--force", options->force, "overwrite the file");
    out->footer("Examples:\n  glm session export last -o talk.jsonl\n  glm session export conv_… | jq -r .role");

    CLI::App* in = command("import", "a new session from JSON Lines; prints its id", run_import);
    in->add_option("file", options->file, "file that export wrote; - is standard input")->required();
    in->footer("Examples:\n  glm session import talk.jsonl\n  ssh other glm session export last | glm session import -");
}

}  // namespace glmd
