// `model import` and `model info` work on files, without the daemon, which may not run yet. An import is copied beside its
// destination, hashed on the way, synced and renamed: a model's name never stands for half a file. default.gguf is a
// relative symbolic link, replaced by rename, so that the folder can be moved and a daemon never finds it missing.
#include <dirent.h>
#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>

#include "cli/app.h"
#include "cli/client.h"
#include "cli/terminal.h"
#include "engine/checkpoint/gguf.h"
#include "engine/models/model.h"

namespace glmd {

namespace {

namespace fs = std::filesystem;

struct ModelOptions {
    std::string path, state_dir, name, sha256;
    bool make_default = false, force = false;
};

[[noreturn]] void throw_errno(const std::string& what, int code) {
    if (code == EACCES || code == EPERM || code == EROFS)
        throw CliError(Exit::denied, what + ": " + std::strerror(code) +
                                         "; run it with sudo, or give --state-dir a folder of your own");
    if (code == ENOENT || code == ENOTDIR) throw CliError(Exit::usage, what + ": " + std::strerror(code));
    throw CliError(Exit::error, what + ": " + std::strerror(code));
}

struct File {
    int fd = -1;
    explicit File(int descriptor) : fd(descriptor) {}
    ~File() {
        if (fd >= 0) ::close(fd);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
};

std::string state_directory(const std::string& given) {
    if (!given.empty()) return given;
    if (::geteuid() == 0) return "/var/lib/glmd";
    if (const char* data = std::getenv("XDG_DATA_HOME"); data && *data == '/') return std::string(data) + "/glmd";
    if (const char* home = std::getenv("HOME"); home && *home) return std::string(home) + "/.local/share/glmd";
    throw CliError(Exit::usage, "HOME isn't set; give --state-dir");
}

/// A file, or the one .gguf in a folder.
std::string model_file(const std::string& path) {
    std::error_code failed;
    if (!fs::is_directory(path, failed)) return path;
    std::vector<std::string> found;
    for (fs::directory_iterator it(path, failed), end; !failed && it != end; it.increment(failed))
        if (it->path().extension() == ".gguf" && it->path().filename().string().front() != '.') found.push_back(it->path().string());
    if (failed) throw_errno("can't read " + path, failed.value());
    if (found.size() == 1) return found[0];
    if (found.empty()) throw CliError(Exit::usage, path + " holds no .gguf file");
    throw CliError(Exit::usage, path + " holds " + std::to_string(found.size()) + " .gguf files; name the one you mean");
}

/// What a model file says of itself.
struct Description {
    std::string file, name, architecture, quantization;
    bool supported = false;
    std::int64_t parameters = 0, tensors = 0, context = 0, layers = 0, width = 0, heads = 0, kv_heads = 0, vocabulary = 0;
    double file_bytes = 0, kv_bytes = 0;  // KV cache of one context, at most 8192 tokens, in 16 bits
};

Description describe(const std::string& path) {
    const Gguf gguf(path);
    Description d;
    d.file = path;
    d.architecture = gguf.string("general.architecture", "");
    d.name = gguf.string("general.name", "");
    d.supported = find_family(d.architecture) != nullptr;
    std::map<std::string, std::int64_t> bytes;
    for (const GgufTensor& tensor : gguf.tensors()) {
        d.parameters += tensor.elements();
        bytes[traits(tensor.type).name] += static_cast<std::int64_t>(tensor.data.size());
    }
    d.tensors = static_cast<std::int64_t>(gguf.tensors().size());
    std::int64_t most = -1;
    for (const auto& [type, size] : bytes)
        if (size > most) most = size, d.quantization = type;
    const auto integer = [&](const std::string& key) -> std::int64_t {
        try {
            return gguf.integer(d.architecture + "." + key, 0);
        } catch (const ModelError&) {
            return 0;  // of another type (one per layer)
        }
    };
    d.context = integer("context_length");
    d.layers = integer("block_count");
    d.width = integer("embedding_length");
    d.heads = integer("attention.head_count");
    d.kv_heads = integer("attention.head_count_kv");
    if (d.kv_heads == 0) d.kv_heads = d.heads;
    if (gguf.has("tokenizer.ggml.tokens")) {
        try {
            d.vocabulary = static_cast<std::int64_t>(gguf.strings("tokenizer.ggml.tokens").size());
        } catch (const ModelError&) {
        }
    }
    d.file_bytes = static_cast<double>(gguf.file_bytes());
    if (d.heads > 0)
        d.kv_bytes = 2.0 * 2.0 * static_cast<double>(d.layers) * static_cast<double>(std::min<std::int64_t>(d.context, 8192)) *
                     static_cast<double>(d.kv_heads) * (static_cast<double>(d.width) / static_cast<double>(d.heads));
    return d;
}

std::string short_count(double n) {
    char text[32];
    if (n >= 1e9) std::snprintf(text, sizeof text, "%.1f billion", n / 1e9);
    else std::snprintf(text, sizeof text, "%.0f million", n / 1e6);
    return text;
}

json::object to_json(const Description& d) {
    return {{"file", d.file},           {"name", d.name},       {"architecture", d.architecture}, {"supported", d.supported},
            {"quantization", d.quantization}, {"parameters", d.parameters}, {"tensors", d.tensors}, {"context", d.context},
            {"layers", d.layers},       {"embedding", d.width}, {"heads", d.heads},               {"kv_heads", d.kv_heads},
            {"vocabulary", d.vocabulary}, {"file_bytes", static_cast<std::int64_t>(d.file_bytes)},
            {"kv_bytes", static_cast<std::int64_t>(d.kv_bytes)}};
}

void print(const Description& d, std::ostream& out) {
    const auto row = [&](const char* key, const std::string& value) { out << pad(key, 14) << one_line(value) << '\n'; };
    row("file", d.file);
    row("name", d.name.empty() ? "-" : d.name);
    row("architecture", d.architecture + (d.supported ? "" : " (not supported)"));
    row("quantization", d.quantization);
    row("parameters", short_count(static_cast<double>(d.parameters)) + " in " + std::to_string(d.tensors) + " tensors");
    row("context", std::to_string(d.context) + " tokens");
    row("layers", std::to_string(d.layers) + ", width " + std::to_string(d.width) + ", " + std::to_string(d.heads) +
                      " heads, " + std::to_string(d.kv_heads) + " for keys and values");
    row("vocabulary", std::to_string(d.vocabulary));
    row("size", human_bytes(d.file_bytes) + " (and " + human_bytes(d.kv_bytes) + " for each full context)");
}

Exit run_info(const Globals& globals, const ModelOptions& options) {
    const Description d = describe(model_file(options.path));
    if (globals.json) std::cout << json::serialize(to_json(d)) << '\n';
    else print(d, std::cout);
    return Exit::ok;
}

Exit run_list(const Globals& globals, const ModelOptions& options) {
    const Terminal terminal(globals.no_color);
    json::array served;
    std::string why;
    try {
        Client client(globals.socket);
        const json::value answer = client.get("/v1/models");
        if (const json::array* data = array_of(as_object(answer), "data")) served = *data;
    } catch (const CliError& e) {
        if (e.exit == Exit::interrupted) throw;
        why = e.what();  // the files can be listed all the same
    }
    const std::string folder = state_directory(options.state_dir) + "/models";
    std::error_code failed;
    const std::string chosen = fs::read_symlink(folder + "/default.gguf", failed).filename().string();
    std::vector<fs::path> files;
    failed.clear();
    for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed))
        if (it->path().extension() == ".gguf" && it->path().filename() != "default.gguf") files.push_back(it->path());
    std::sort(files.begin(), files.end());
    if (globals.json) {
        json::array installed;
        for (const fs::path& file : files) {
            std::error_code ignored;
            installed.push_back(json::object{{"file", file.string()},
                                             {"bytes", static_cast<std::int64_t>(fs::file_size(file, ignored))},
                                             {"default", file.filename().string() == chosen}});
        }
        std::cout << json::serialize(json::object{{"served", served}, {"installed", installed}}) << '\n';
        return Exit::ok;
    }
    for (const json::value& value : served)
        if (value.is_object())
            std::cout << printable(text_of(value.get_object(), "id")) << "  " << terminal.paint("served by the daemon", Style::good)
                      << '\n';
    for (const fs::path& file : files) {
        std::error_code ignored;
        std::cout << printable(file.string()) << "  " << human_bytes(static_cast<double>(fs::file_size(file, ignored)))
                  << (file.filename().string() == chosen ? "  default" : "") << '\n';
    }
    std::cout.flush();
    if (!why.empty()) std::cerr << terminal.paint_error(printable(why), Style::warn) << '\n';
    if (served.empty() && files.empty()) std::cerr << "no model; install one with: glm model import FILE.gguf\n";
    return Exit::ok;
}

/// A line of /proc/meminfo in bytes; 0 when there is none.
double memory(const std::string& key) {
    std::ifstream file("/proc/meminfo");
    std::string name;
    double kib = 0;
    std::string rest;
    while (file >> name >> kib && std::getline(file, rest))
        if (name == key + ":") return kib * 1024;
    return 0;
}

std::string hex(const unsigned char* bytes, std::size_t n) {
    std::string text(n * 2 + 1, '\0');
    sodium_bin2hex(text.data(), text.size(), bytes, n);
    text.pop_back();
    return text;
}

/// Reads `from` to its end, writes it to `to` (unless -1), and returns the SHA-256 in hex.
std::string copy_and_hash(int from, int to, double total, const std::string& target, const Terminal& terminal) {
    using clock = std::chrono::steady_clock;
    crypto_hash_sha256_state hash;
    crypto_hash_sha256_init(&hash);
    std::vector<unsigned char> buffer(4u << 20);
    double done = 0;
    const auto begin = clock::now();
    Spinner spinner(terminal);
    ::posix_fadvise(from, 0, 0, POSIX_FADV_SEQUENTIAL);
    for (;;) {
        if (interrupted()) throw CliError(Exit::interrupted, "interrupted");
        const ssize_t n = ::read(from, buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw_errno("can't read the model file", errno);
        if (n == 0) break;
        crypto_hash_sha256_update(&hash, buffer.data(), static_cast<unsigned long long>(n));
        for (ssize_t at = 0; to >= 0 && at < n;) {
            const ssize_t w = ::write(to, buffer.data() + at, static_cast<std::size_t>(n - at));
            if (w < 0 && errno == EINTR && !interrupted()) continue;
            if (w < 0 && interrupted()) throw CliError(Exit::interrupted, "interrupted");
            if (w < 0) throw_errno("can't write " + target, errno);
            at += w;
        }
        done += static_cast<double>(n);
        const double seconds = std::chrono::duration<double>(clock::now() - begin).count();
        const double rate = seconds > 0 ? done / seconds : 0;
        std::string text = (to >= 0 ? "copying " : "checking ") + human_bytes(done) + " of " + human_bytes(total) + ", " +
                           human_bytes(rate) + "/s";
        if (rate > 0 && total > done) text += ", " + human_seconds((total - done) / rate) + " left";
        spinner.say(text);
        spinner.tick();
    }
    if (to >= 0) {
        spinner.say("writing to the disk");
        spinner.tick();
        if (::fsync(to) != 0) throw_errno("can't write " + target, errno);
    }
    unsigned char digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_final(&hash, digest);
    return hex(digest, sizeof digest);
}

void sync_folder(const std::string& folder) {
    const File directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory.fd >= 0) ::fsync(directory.fd);
}

/// A file that is gone unless it was renamed away.
struct Temporary {
    std::string path;
    ~Temporary() {
        if (!path.empty()) ::unlink(path.c_str());
    }
};

void set_default(const std::string& folder, const std::string& name) {
    Temporary link{folder + "/.default-" + std::to_string(::getpid())};
    ::unlink(link.path.c_str());
    if (::symlink(name.c_str(), link.path.c_str()) != 0) throw_errno("can't write in " + folder, errno);
    struct stat info {};
    if (::geteuid() == 0 && ::stat(folder.c_str(), &info) == 0 &&
        ::lchown(link.path.c_str(), info.st_uid, info.st_gid) != 0) {
        // the link works whoever owns it
    }
    if (::rename(link.path.c_str(), (folder + "/default.gguf").c_str()) != 0) throw_errno("can't write in " + folder, errno);
    link.path.clear();
    sync_folder(folder);
}

Exit run_import(const Globals& globals, const ModelOptions& options) {
    if (sodium_init() < 0) throw CliError(Exit::error, "libsodium doesn't start");
    const Terminal terminal(globals.no_color);
    const std::string source = model_file(options.path);
    const File from(::open(source.c_str(), O_RDONLY | O_CLOEXEC));
    if (from.fd < 0) throw_errno("can't read " + source, errno);
    struct stat info {};
    if (::fstat(from.fd, &info) != 0 || !S_ISREG(info.st_mode)) throw CliError(Exit::usage, source + " isn't a file");

    std::string name = options.name.empty() ? fs::path(source).filename().string() : options.name;
    if (!name.ends_with(".gguf")) name += ".gguf";
    if (name.find('/') != std::string::npos || name.front() == '.' || name == "default.gguf")
        throw CliError(Exit::usage, "a model can't be called " + name + "; choose another name with --name");

    const Description d = describe(source);
    if (!d.supported)
        throw CliError(Exit::error, source + " holds the architecture \"" + one_line(d.architecture) +
                                        "\", which glmd doesn't run (it runs " + known_architectures() + ")");
    std::ostream& out = globals.json ? std::cerr : std::cout;
    if (!globals.json) print(d, out);

    const std::string folder = state_directory(options.state_dir) + "/models";
    std::error_code failed;
    const bool fresh = fs::create_directories(folder, failed);
    if (failed) throw_errno("can't create " + folder, failed.value());
    struct stat parent {};
    if (fresh && ::geteuid() == 0 && ::stat(fs::path(folder).parent_path().c_str(), &parent) == 0 &&
        ::chown(folder.c_str(), parent.st_uid, parent.st_gid) != 0)
        throw_errno("can't give " + folder + " to the daemon's user", errno);
    if (::access(folder.c_str(), W_OK | X_OK) != 0) throw_errno("can't write in " + folder, errno);

    // Will it run here, will it fit there.
    const double needed = d.file_bytes + d.kv_bytes, memory_total = memory("MemTotal"), memory_free = memory("MemAvailable");
    if (memory_total > 0 && needed > memory_total && !options.force)
        throw CliError(Exit::no_memory, "the model needs about " + human_bytes(needed) + " of memory and this machine has " +
                                            human_bytes(memory_total) + " (--force imports it all the same)");
    if (memory_free > 0 && needed > memory_free)
        std::cerr << terminal.paint_error("the model needs about " + human_bytes(needed) + " of memory and " +
                                              human_bytes(memory_free) + " are available now",
                                          Style::warn)
                  << '\n';
    const std::string target = folder + "/" + name;
    struct stat existing {};
    const bool present = ::lstat(target.c_str(), &existing) == 0;
    bool same = false;
    std::string digest;
    if (present && S_ISREG(existing.st_mode) && existing.st_size == info.st_size) {
        digest = copy_and_hash(from.fd, -1, d.file_bytes, target, terminal);
        const File old(::open(target.c_str(), O_RDONLY | O_CLOEXEC));
        same = old.fd >= 0 && copy_and_hash(old.fd, -1, d.file_bytes, target, terminal) == digest;
        ::lseek(from.fd, 0, SEEK_SET);
    }
    if (present && !same && !options.force)
        throw CliError(Exit::error, target + " exists already and is another file (--force replaces it, --name gives another name)");
    if (!same) {
        struct statvfs disk {};
        if (::statvfs(folder.c_str(), &disk) != 0) throw_errno("can't read the free space of " + folder, errno);
        const double room = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
        if (d.file_bytes + (64 << 20) > room)
            throw CliError(Exit::error, "the model takes " + human_bytes(d.file_bytes) + " and " + folder + " has " +
                                            human_bytes(room) + " free");
        Temporary temporary{folder + "/.import-XXXXXX"};
        const File to(::mkostemp(temporary.path.data(), O_CLOEXEC));
        if (to.fd < 0) {
            const int code = errno;
            temporary.path.clear();
            throw_errno("can't write in " + folder, code);
        }
        digest = copy_and_hash(from.fd, to.fd, d.file_bytes, target, terminal);
        if (!options.sha256.empty() && digest != CLI::detail::to_lower(options.sha256))
            throw CliError(Exit::error, "the file's SHA-256 is " + digest + " and not the one given; nothing was imported");
        struct stat owner {};
        ::fchmod(to.fd, 0644);
        // Imported by root: the daemon's user owns the folder and must be able to read what is in it.
        if (::geteuid() == 0 && ::stat(folder.c_str(), &owner) == 0 && ::fchown(to.fd, owner.st_uid, owner.st_gid) != 0)
            throw_errno("can't give " + target + " to the daemon's user", errno);
        if (::rename(temporary.path.c_str(), target.c_str()) != 0) throw_errno("can't write " + target, errno);
        temporary.path.clear();
        sync_folder(folder);
    } else if (!options.sha256.empty() && digest != CLI::detail::to_lower(options.sha256)) {
        throw CliError(Exit::error, "the file's SHA-256 is " + digest + " and not the one given");
    }
    const bool first = ::access((folder + "/default.gguf").c_str(), F_OK) != 0;  // or the link leads nowhere
    const bool chosen = first || options.make_default;
    if (chosen) set_default(folder, name);
    const bool is_default = chosen || fs::read_symlink(folder + "/default.gguf", failed) == name;

    if (globals.json) {
        json::object result = to_json(d);
        result["file"] = target;
        result["sha256"] = digest;
        result["default"] = is_default;
        std::cout << json::serialize(result) << '\n';
    } else {
        out << pad("sha256", 14) << digest << '\n'
            << pad(same ? "present as" : "imported as", 14) << target << (is_default ? " (default)" : "") << '\n';
        out.flush();
    }
    if (chosen)
        std::cerr << (::geteuid() == 0 && options.state_dir.empty() ? "now let the daemon load it: systemctl restart glmd\n"
                                                                     : "now restart your glmd, so that it loads it\n");
    else if (!is_default)
        std::cerr << "the default model stays as it is; --default makes this one the default\n";
    return Exit::ok;
}

}  // namespace

void add_model(CLI::App& app, Globals& globals, Action& action) {
    auto options = std::make_shared<ModelOptions>();
    CLI::App* sub = app.add_subcommand("model", "list, inspect and install models");
    sub->require_subcommand(1);
    sub->footer(
        "Examples:\n"
        "  glm model list\n"
        "  glm model info model.gguf\n"
        "  sudo glm model import model.gguf --default");
    const auto command = [&](const char* name, const char* text, Exit (*run)(const Globals&, const ModelOptions&)) {
        CLI::App* leaf = sub->add_subcommand(name, text);
        leaf->callback([&globals, &action, options, run] { action = [&globals, options, run] { return run(globals, *options); }; });
        return leaf;
    };
    const char* state_text = "the daemon's state folder (root: /var/lib/glmd, else $XDG_DATA_HOME/glmd)";
    CLI::App* list = command("list", "what the daemon serves and what is installed", run_list);
    list->add_option("--state-dir", options->state_dir, state_text);
    list->footer("Examples:\n  glm model list\n  glm model list --json | jq .served");

    CLI::App* about = command("info", "what a GGUF file holds", run_info);
    about->add_option("path", options->path, "a .gguf file, or a folder with one")->required();
    about->footer("Examples:\n  glm model info model.gguf\n  glm model info --json model.gguf | jq .context");

    CLI::App* in = command("import", "check a GGUF file and copy it to the daemon's models", run_import);
    in->add_option("path", options->path, "a .gguf file, or a folder with one")->required();
    in->add_option("--state-dir", options->state_dir, state_text);
    in->add_option("--name", options->name, "file name to give it");
    in->add_option("--sha256", options->sha256, "refuse the file unless it has this hash");
    in->add_flag("--default", options->make_default, "make it the model that the daemon loads (the first one is anyway)");
    in->add_flag("-f,--force", options->force, "replace a model of the same name; import what memory is too small for");
    in->footer(
        "Examples:\n"
        "  sudo glm model import glm-edge-1.5b-chat.Q4_K.gguf\n"
        "  sudo glm model import ~/Downloads/model --default --name chat.gguf\n"
        "  glm model import model.gguf --state-dir ~/glmd-test");
}

}  // namespace glmd
