// Everything that can be refused is refused before the first byte is read: a conversion takes minutes. Ctrl-C is noticed with
// the next progress report, unwinds through the converter, and takes the half-written file and the packed copy with it.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "cli/model.h"
#include "engine/memory_plan.h"

namespace glmd {

Exit run_model_convert(const Globals& globals, const ModelOptions& options) {
    namespace fs = std::filesystem;
    using clock = std::chrono::steady_clock;
    const Terminal terminal(globals.no_color);
    std::error_code error;
    if (!fs::exists(options.path, error)) throw CliError(Exit::usage, options.path + ": there is no such checkpoint");
    const fs::path output = fs::absolute(options.output);
    if (fs::is_directory(output, error)) throw CliError(Exit::usage, options.output + " is a folder; name the file to write");
    if (fs::exists(output, error) && !options.force)
        throw CliError(Exit::usage, options.output + " exists already (--force replaces it)");
    if (::access(output.parent_path().c_str(), W_OK | X_OK) != 0) throw_errno("can't write in " + output.parent_path().string(), errno);

    ConvertOptions convert;
    convert.input = options.path;
    convert.output = output.string();
    convert.type = output_type(options.type);
    convert.config = options.config;
    convert.tokenizer = options.tokenizer;
    convert.prefix = options.prefix;
    convert.chat_template = options.chat_template;
    convert.threads = options.threads;
    convert.self_test = options.self_test;
    const auto begin = clock::now();
    ProgressBar bar(terminal, "converting");
    const ConvertResult r = convert_checkpoint(convert, [&](std::uint64_t done, std::uint64_t total) {
        bar.update(static_cast<double>(done), static_cast<double>(total));
    });
    bar.clear();
    const double seconds = std::chrono::duration<double>(clock::now() - begin).count();

    if (globals.json) {
        json::array sources;
        for (const auto& [file, sha256] : r.sources) sources.push_back(json::object{{"file", file}, {"sha256", sha256}});
        json::object result{{"file", convert.output},     {"architecture", r.architecture}, {"type", options.type},
                            {"parameters", r.parameters}, {"tensors", r.tensors},           {"bytes", r.bytes},
                            {"tokenizer", r.tokenizer},   {"self_test", r.no_self_test.empty()}, {"seconds", seconds},
                            {"sources", std::move(sources)}};
        if (!r.no_self_test.empty()) result["no_self_test"] = r.no_self_test;
        std::cout << json::serialize(result) << '\n';
    } else {
        const auto row = [](const char* key, const std::string& value) { std::cout << pad(key, 14) << one_line(value) << '\n'; };
        row("architecture", r.architecture);
        row("parameters", short_count(static_cast<double>(r.parameters)) + " in " + std::to_string(r.tensors) + " tensors");
        row("type", options.type);
        row("self-test", r.no_self_test.empty() ? "recorded" : "not recorded: " + r.no_self_test);
        row("written", convert.output + ", " + human_bytes(static_cast<double>(r.bytes)) + " in " + human_seconds(seconds));
        std::cout.flush();
    }
    if (!r.tokenizer)
        std::cerr << terminal.paint_error("the checkpoint has no tokenizer: the model can't be talked to; convert again with --tokenizer FOLDER", Style::warn) << '\n';
    return Exit::ok;
}

}  // namespace glmd
