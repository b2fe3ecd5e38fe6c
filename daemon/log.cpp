// One write() per line, so that lines of several threads don't mix. JOURNAL_STREAM tells that stderr is the journal.
#include "daemon/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>

namespace glmd {
namespace {

std::atomic<bool> verbose_log{false};

void write_line(int priority, std::string_view line) {
    static const bool journal = std::getenv("JOURNAL_STREAM") != nullptr;
    std::string out;
    if (journal) out = "<" + std::to_string(priority) + ">";
    for (char c : line) out.push_back(c == '\n' ? ' ' : c);
    out.push_back('\n');
    [[maybe_unused]] ssize_t written = ::write(2, out.data(), out.size());
}

}  // namespace

void set_log_verbose(bool verbose) { verbose_log = verbose; }
void log_debug(std::string_view line) { if (verbose_log) write_line(7, line); }
void log_info(std::string_view line) { write_line(6, line); }
void log_warning(std::string_view line) { write_line(4, line); }
void log_error(std::string_view line) { write_line(3, line); }

}  // namespace glmd
