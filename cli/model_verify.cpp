// The self-test packs the model into a folder of its own and maps that, as the daemon does with its cache; the daemon's cache
// isn't used, as root would leave files there that the daemon can't read.
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <thread>

#include "cli/model.h"
#include "engine/checkpoint/hashes.h"
#include "engine/loaded_model.h"
#include "engine/memory_plan.h"
#include "engine/self_test.h"

namespace glmd {

namespace {

namespace fs = std::filesystem;

struct Folder {
    std::string path;
    explicit Folder(std::string where) {
        if (where.empty()) {
            const char* set = std::getenv("TMPDIR");
            where = set && *set ? set : "/var/tmp";  // not /tmp, which may be memory
        }
        path = where + "/glm-verify-XXXXXX";
        if (!::mkdtemp(path.data())) {
            const int code = errno;
            path.clear();
            throw_errno("can't make a folder in " + where, code);
        }
    }
    ~Folder() {
        std::error_code ignored;
        if (!path.empty()) fs::remove_all(path, ignored);
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
};

SelfTest try_model(const std::string& file, const ModelOptions& options, const Terminal& terminal) {
    const Folder folder(options.temp_dir);
    ProgressBar bar(terminal, "packing");
    EngineOptions engine;
    engine.context = 256;
    engine.max_sequences = 1;
    engine.prefill_rows = 8;
    engine.kv_bytes = 1;
    engine.cpu.threads = options.threads;
    engine.cache_directory = folder.path;
    engine.self_test = false;
    engine.on_pack = [&](std::size_t done, std::size_t total) { bar.update(static_cast<double>(done), static_cast<double>(total)); };
    LoadedModel model = load_model(file, engine);
    return run_self_test(model);
}

}  // namespace

Exit run_model_verify(const Globals& globals, const ModelOptions& options) {
    const Terminal terminal(globals.no_color);
    const std::string file = model_file(options.path);
    std::error_code error;
    if (!fs::exists(file, error)) throw CliError(Exit::usage, file + ": there is no such file");
    const int threads = options.threads > 0 ? options.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    const Description d = describe(file);
    HashCheck hashes;
    {
        ProgressBar bar(terminal, "hashing");
        hashes = check_hashes(file, threads, [&](std::uint64_t done) { bar.update(static_cast<double>(done), d.file_bytes); });
    }
    // A file whose data is damaged isn't run: its answer would tell nothing new. Which recorded fingerprint is compared with
    // is the file's own; one that packing adds to a foreign file says no more than that the model runs.
    std::optional<SelfTest> test;
    std::string failure, skipped;
    if (!options.self_test) skipped = "not asked for";
    else if (!hashes.good()) skipped = "the file is damaged";
    else {
        try {
            test = try_model(file, options, terminal);
        } catch (const ModelError& e) {
            failure = e.what();
        }
    }
    const bool good = hashes.good() && failure.empty();
    const bool no_memory = failure.starts_with("insufficient memory");
    if (globals.json) {
        json::object result{{"file", file},
                            {"good", good},
                            {"hashes", hashes.recorded ? json::value(hashes.tensors) : json::value(nullptr)},
                            {"header", hashes.header},
                            {"damaged", json::array(hashes.damaged.begin(), hashes.damaged.end())}};
        if (test)
            result["self_test"] = json::object{{"recorded", d.self_test}, {"difference", test->difference}, {"tolerance", test->tolerance},
                                               {"seconds", test->seconds}};
        else
            result["self_test"] = failure.empty() ? skipped : failure;
        std::cout << json::serialize(result) << '\n';
    } else {
        const auto row = [&](const char* key, const std::string& value, Style style) {
            std::cout << pad(key, 14) << terminal.paint(one_line(value), style) << '\n';
        };
        row("file", file, Style::plain);
        if (!hashes.recorded) {
            row("hashes", "none recorded: glm model convert records them", Style::warn);
        } else {
            row("header", hashes.header ? "as written" : "DAMAGED", hashes.header ? Style::good : Style::bad);
            for (const std::string& name : hashes.damaged) row("tensor", name + " is DAMAGED", Style::bad);
            if (hashes.damaged.empty()) row("tensors", "all " + std::to_string(hashes.tensors) + " as written", Style::good);
        }
        if (test) {
            char text[160];
            if (d.self_test)
                std::snprintf(text, sizeof text, "as recorded: %.2g standard deviations off, %.2g allowed (%.2f s)", test->difference, test->tolerance, test->seconds);
            else
                std::snprintf(text, sizeof text, "it runs, with finite logits (%.2f s); the file holds nothing to compare with", test->seconds);
            row("self-test", text, Style::good);
        } else {
            row("self-test", failure.empty() ? "not run: " + skipped : failure, failure.empty() ? Style::warn : Style::bad);
        }
        std::cout.flush();
    }
    return good ? Exit::ok : no_memory ? Exit::no_memory : Exit::error;
}

}  // namespace glmd
