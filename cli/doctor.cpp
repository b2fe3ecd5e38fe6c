// Every check says what it found and, where there is something to do, what. It asks the daemon last: most of what keeps one from
// starting is found without it.
#include "cli/doctor.h"

#include <grp.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>

#include "cli/app.h"
#include "cli/client.h"
#include "cli/model.h"
#include "cli/terminal.h"
#include "engine/available_memory.h"
#include "engine/device_facts.h"
#include "engine/sysfs.h"
#include "kernels/backend.h"

namespace glmd {
namespace {

namespace fs = std::filesystem;
using State = Finding::State;

bool exists(const std::string& path) {
    std::error_code error;
    return fs::exists(path, error);
}

std::string format(const char* pattern, double number) {
    char text[80];
    std::snprintf(text, sizeof text, pattern, number);
    return text;
}

Finding processor() {
    const std::string best = cpu_instruction_sets().front();
    const std::string says = best + ", " + std::to_string(cpu_cores()) + " cores for this process";
    if (best != "scalar") return {State::fine, "processor", says, ""};
    return {State::broken, "processor", says, "this build has no instruction set of this processor: models will be very slow; build glmd on this machine"};
}

Finding memory(const std::string& root) {
    const double total = double(number_of(root + "/proc/meminfo", "MemTotal:")) * 1024;
    const double left = root.empty() ? double(available_memory()) : double(number_of(root + "/proc/meminfo", "MemAvailable:")) * 1024;
    const std::string says = human_bytes(left) + " of " + human_bytes(total) + " available";
    if (left >= double(1ull << 30)) return {State::fine, "memory", says, ""};
    return {State::broken, "memory", says, "end other programs or raise the limit (MemoryMax=): even small models want 1 GiB"};
}

Finding huge_pages(const std::string& root) {
    const std::string file = "/sys/kernel/mm/transparent_hugepage/enabled", modes = read_line_of(root + file);
    const auto begin = modes.find('['), end = modes.find(']');
    const std::string mode = begin < end && end != modes.npos ? modes.substr(begin + 1, end - begin - 1) : "not in this kernel";
    if (mode == "always" || mode == "madvise") return {State::fine, "huge pages", mode + ": weights move into them where that is faster", ""};
    return {State::advice, "huge pages", mode, "weights are read up to a quarter slower without: echo madvise | sudo tee " + file};
}

/// The nearest folder that there is.
std::string existing(fs::path path) {
    while (!exists(path) && path.has_relative_path()) path = path.parent_path();
    return path;
}

Finding cache(const std::string& folder) {
    const std::string at = existing(folder);
    struct stat info {};
    struct statvfs space {};
    if (::stat(at.c_str(), &info) != 0 || ::statvfs(at.c_str(), &space) != 0) return {State::broken, "cache", folder + " can't be looked at", "give its parent folders back their permissions"};
    const double free = double(space.f_bavail) * double(space.f_frsize);
    std::string says = folder + ", " + human_bytes(free) + " free";
    const std::string device = "/sys/dev/block/" + std::to_string(major(info.st_dev)) + ":" + std::to_string(minor(info.st_dev));
    for (const char* queue : {"/queue/rotational", "/../queue/rotational"})
        if (const auto spins = read_value<int>(device + queue)) says += *spins ? ", a spinning disk" : ", no spinning disk";
    if (::access(at.c_str(), W_OK) != 0) return {State::broken, "cache", says + ", not writable by you", "chown it, or set XDG_CACHE_HOME"};
    if (free < double(4ull << 30)) return {State::advice, "cache", says, "packed weights take as much as the model file: free some space"};
    return {State::fine, "cache", says, ""};
}

Finding models() {
    const std::string folder = state_directory("") + "/models";
    std::error_code error;
    int count = 0;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) count += it->path().extension() == ".gguf";
    if (count > 0) return {State::fine, "models", std::to_string(count) + " in " + folder, ""};
    return {State::advice, "models", "none in " + folder, "glm model import FILE.gguf (with sudo for the system's service)"};
}

/// Lines of the unit and of what changes it, in the order in which systemd reads them.
std::string unit_text(const std::string& root) {
    std::string text;
    for (const char* folder : {"/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}) {
        std::vector<std::string> files{root + folder + "/glmd.service"};
        if (!text.empty() || !exists(files[0])) continue;
        for (const std::string& drop_in : entries(root + "/etc/systemd/system/glmd.service.d")) files.push_back(drop_in);
        for (const std::string& file : files) {
            std::ifstream in(file);
            text.append(std::istreambuf_iterator<char>(in), {});
            text += '\n';
        }
    }
    return text;
}

/// The last word on a boolean setting.
bool switched_on(const std::string& unit, const std::string& key) {
    const auto at = unit.rfind("\n" + key + "=");
    return at != unit.npos && unit.compare(at + key.size() + 2, 3, "yes") == 0;
}

bool has_nvidia_card(const std::string& root) {
    for (const std::string& device : entries(root + "/sys/bus/pci/devices"))
        if (read_line_of(device + "/vendor") == "0x10de" && read_line_of(device + "/class").starts_with("0x03")) return true;
    return false;
}

Finding device_nodes(const std::string& root, bool integrated) {
    const std::vector<std::string> wanted = integrated ? std::vector<std::string>{"/dev/nvmap"} : std::vector<std::string>{"/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm"};
    std::string list, missing, closed, groups;
    for (const std::string& node : wanted) {
        list += (list.empty() ? "" : ", ") + node;
        struct stat info {};
        if (::stat((root + node).c_str(), &info) != 0) {
            missing += (missing.empty() ? "" : ", ") + node;
        } else if (::access((root + node).c_str(), R_OK | W_OK) != 0) {
            closed += (closed.empty() ? "" : ", ") + node;
            if (const group* g = ::getgrgid(info.st_gid); g && groups.find(g->gr_name) == groups.npos) groups += (groups.empty() ? "" : ",") + std::string(g->gr_name);
        }
    }
    if (!missing.empty())
        return {State::broken, "GPU's devices", missing + " missing", integrated ? "flash Jetson Linux with its NVIDIA kernel modules; in a container, pass the devices through"
                                                                               : "sudo nvidia-modprobe -u -c 0; in a container, pass the devices through"};
    if (!closed.empty()) return {State::broken, "GPU's devices", closed + " closed to you", "sudo usermod -aG " + (groups.empty() ? "video,render" : groups) + " $USER (and glmd), and log in again"};
    return {State::fine, "GPU's devices", list, ""};
}

void gpu(const std::string& root, std::vector<Finding>& found) {
    const DeviceFacts facts = device_facts(root);
    const bool jetson = facts.gpu && facts.gpu->integrated;
    if (!facts.gpu && !has_nvidia_card(root)) {
        found.push_back({State::fine, "GPU", "no NVIDIA GPU: models run on the processor", ""});
    } else {
        if (!facts.gpu || facts.gpu->driver.empty())
            found.push_back({State::broken, "GPU", facts.gpu && !facts.gpu->name.empty() ? facts.gpu->name + ", no driver" : "an NVIDIA GPU without its driver",
                             jetson ? "flash Jetson Linux with its NVIDIA kernel modules" : "install NVIDIA's driver (version 525 or newer) and restart the machine"});
        else
            found.push_back({State::fine, "GPU", facts.gpu->name + ", driver " + facts.gpu->driver + (facts.jetson_linux.empty() ? "" : ", Jetson Linux " + facts.jetson_linux), ""});
        found.push_back(device_nodes(root, jetson));
        if (root.empty()) {
            try {
                std::string says;
                for (const CudaDevice& d : cuda_devices()) says += (says.empty() ? "" : "; ") + d.name + ", " + human_bytes(double(d.memory));
                found.push_back({State::fine, "CUDA", says, ""});
            } catch (const std::exception& e) {
                found.push_back({State::broken, "CUDA", e.what(), "install the CUDA plugin and cuBLAS of the driver's CUDA version, or set backend = \"cpu\""});
            }
        }
        if (switched_on(unit_text(root), "PrivateDevices"))
            found.push_back({State::broken, "service's devices", "the unit hides the GPU from the daemon (PrivateDevices=yes)",
                             "sudo systemctl edit glmd.service, with what docs/jetson.md says for this kind of GPU"});
    }
    if (facts.power_mode) {
        const std::string name = facts.power_mode->name.empty() ? std::to_string(facts.power_mode->id) : facts.power_mode->name;
        Finding f{State::fine, "power mode", name, ""};
        for (const PowerMode& m : facts.power_modes)
            if (m.name.starts_with("MAXN") && !name.starts_with("MAXN"))
                f.state = State::advice, f.remedy = "for full speed, where supply and cooling allow it: sudo nvpmodel -m " + std::to_string(m.id);
        found.push_back(f);
    }
    if (facts.gpu && facts.gpu->clock_hz && facts.gpu->max_clock_hz)
        found.push_back({State::fine, "GPU's clock", format("%.0f", *facts.gpu->clock_hz / 1e6) + " of " + format("%.0f MHz", *facts.gpu->max_clock_hz / 1e6), ""});
    const Temperature* hottest = nullptr;
    for (const Temperature& t : facts.temperatures)
        if (!hottest || t.celsius > hottest->celsius) hottest = &t;
    if (facts.throttled.value_or(false)) {
        std::string by;
        for (const std::string& name : facts.throttled_by) by += (by.empty() ? "" : ", ") + name;
        found.push_back({State::broken, "heat", "slowed down by " + by, "better cooling, or a lower power mode"});
    } else if (hottest) {
        const bool hot = hottest->celsius >= 90;
        found.push_back({hot ? State::advice : State::fine, "heat", hottest->sensor + format(" %.0f °C", hottest->celsius), hot ? "better cooling: it will soon be slowed down" : ""});
    }
    if (facts.over_current_events.value_or(0) > 0)
        found.push_back({State::advice, "power supply", std::to_string(*facts.over_current_events) + " times too much current or too little voltage since the start",
                         "a stronger supply, or a lower power mode"});
}

void daemon(const Globals& globals, std::vector<Finding>& found) {
    try {
        Client client(globals.socket);
        const json::value answer = client.get("/v1/glm/status");
        const json::object& status = as_object(answer);
        const std::string version = text_of(status, "version");
        found.push_back({version == GLM_VERSION ? State::fine : State::advice, "daemon", "version " + version + " at " + globals.socket,
                         version == GLM_VERSION ? "" : "glm is version " GLM_VERSION ": sudo systemctl restart glmd.service"});
        const json::object* model = object_of(status, "model");
        const std::string state = model ? text_of(*model, "state") : "";
        if (state == "ready") found.push_back({State::fine, "model", text_of(*model, "id") + " on " + text_of(*model, "backend"), ""});
        else if (state == "loading") found.push_back({State::fine, "model", text_of(*model, "id") + " is being loaded", ""});
        else if (state == "no_model") found.push_back({State::broken, "model", "the daemon has none", "glm model import FILE.gguf (with sudo for the system's service)"});
        else found.push_back({State::broken, "model", (model ? text_of(*model, "id") : "it") + " could not be loaded", "journalctl -u glmd says why"});
    } catch (const CliError& e) {
        found.push_back({State::broken, "daemon", e.what(), e.exit == Exit::denied ? "sudo adduser $USER glm, and log in again" : "sudo systemctl enable --now glmd.socket, or start glmd yourself"});
    }
}

Exit run_doctor(const Globals& globals) {
    std::vector<Finding> found = examine_machine();
    found.insert(found.begin() + 3, cache(cache_folder()));
    found.insert(found.begin() + 4, models());
    daemon(globals, found);
    bool good = true;
    for (const Finding& f : found) good = good && f.state != State::broken;
    const auto state = [](const Finding& f) { return f.state == State::fine ? "fine" : f.state == State::advice ? "advice" : "broken"; };
    if (globals.json) {
        json::array checks;
        for (const Finding& f : found) {
            json::object o{{"check", f.check}, {"state", state(f)}, {"says", f.says}};
            o["do"] = f.remedy.empty() ? json::value(nullptr) : json::value(f.remedy);
            checks.push_back(std::move(o));
        }
        std::cout << json::serialize(json::object{{"object", "glm.doctor"}, {"fine", good}, {"checks", std::move(checks)}}) << '\n';
    } else {
        const Terminal terminal(globals.no_color);
        for (const Finding& f : found) {
            const Style style = f.state == State::fine ? Style::good : f.state == State::advice ? Style::warn : Style::bad;
            std::cout << terminal.paint(pad(state(f), 8), style) << pad(f.check, 19) << one_line(f.says) << '\n';
            if (!f.remedy.empty()) std::cout << pad("", 27) << "→ " << one_line(f.remedy) << '\n';
        }
    }
    return good ? Exit::ok : Exit::error;
}

}  // namespace

std::vector<Finding> examine_machine(const std::string& root) {
    std::vector<Finding> found{processor(), memory(root), huge_pages(root)};
    if (unit_text(root).empty()) found.push_back({State::advice, "service", "no glmd.service is installed", "cmake --install puts it in place; without it, start glmd yourself"});
    else found.push_back({State::fine, "service", "glmd.service is installed", ""});
    gpu(root, found);
    return found;
}

void add_doctor(CLI::App& app, Globals& globals, Action& action) {
    CLI::App* sub = app.add_subcommand("doctor", "looks at machine, GPU, folders and daemon, and says what to do");
    sub->footer("Examples:\n"
                "  glm doctor\n"
                "  glm doctor --json | jq '.checks[] | select(.state != \"fine\")'\n"
                "\nThe exit status is 1 when something is broken; advice alone leaves it at 0.");
    sub->callback([&globals, &action] { action = [&globals] { return run_doctor(globals); }; });
}

}  // namespace glmd
