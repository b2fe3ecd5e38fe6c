// Widths come from our own table and not from wcwidth(): that depends on the locale (bare machines have "C") and knows no
// emoji sequences. The table holds Unicode's wide and zero-width blocks, coarsened where nobody can tell.
#include "cli/terminal.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iterator>

#include "cli/app.h"

namespace glmd {

namespace {

struct Range {
    char32_t first, last;
};

constexpr Range zero_width[] = {
    {0x0300, 0x036F},   {0x0483, 0x0489},   {0x0591, 0x05BD},   {0x0610, 0x061A},   {0x064B, 0x065F},
    {0x0670, 0x0670},   {0x06D6, 0x06DC},   {0x0900, 0x0902},   {0x093C, 0x093C},   {0x0941, 0x0948},
    {0x094D, 0x094D},   {0x0E31, 0x0E31},   {0x0E34, 0x0E3A},   {0x0E47, 0x0E4E},   {0x1AB0, 0x1AFF},
    {0x1DC0, 0x1DFF},   {0x200B, 0x200F},   {0x202A, 0x202E},   {0x2060, 0x2064},   {0x20D0, 0x20F0},
    {0x302A, 0x302D},   {0x3099, 0x309A},   {0xFE00, 0xFE0F},   {0xFE20, 0xFE2F},   {0xFEFF, 0xFEFF},
    {0xE0000, 0xE01EF},
};

constexpr Range wide[] = {
    {0x1100, 0x115F},   {0x231A, 0x231B},   {0x2329, 0x232A},   {0x23E9, 0x23EC},   {0x23F0, 0x23F0},
    {0x23F3, 0x23F3},   {0x25FD, 0x25FE},   {0x2614, 0x2615},   {0x2648, 0x2653},   {0x267F, 0x267F},
    {0x2693, 0x2693},   {0x26A1, 0x26A1},   {0x26AA, 0x26AB},   {0x26BD, 0x26BE},   {0x26C4, 0x26C5},
    {0x26CE, 0x26CE},   {0x26D4, 0x26D4},   {0x26EA, 0x26EA},   {0x26F2, 0x26F3},   {0x26F5, 0x26F5},
    {0x26FA, 0x26FA},   {0x26FD, 0x26FD},   {0x2705, 0x2705},   {0x270A, 0x270B},   {0x2728, 0x2728},
    {0x274C, 0x274C},   {0x274E, 0x274E},   {0x2753, 0x2755},   {0x2757, 0x2757},   {0x2795, 0x2797},
    {0x27B0, 0x27B0},   {0x27BF, 0x27BF},   {0x2B1B, 0x2B1C},   {0x2B50, 0x2B50},   {0x2B55, 0x2B55},
    {0x2E80, 0x303E},   {0x3041, 0x33FF},   {0x3400, 0x4DBF},   {0x4E00, 0xA4CF},   {0xA960, 0xA97F},
    {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},   {0xFE10, 0xFE19},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},
    {0xFFE0, 0xFFE6},   {0x16FE0, 0x18CFF}, {0x1AFF0, 0x1B2FF}, {0x1F004, 0x1F004}, {0x1F0CF, 0x1F0CF},
    {0x1F18E, 0x1F18E}, {0x1F191, 0x1F19A}, {0x1F200, 0x1F320}, {0x1F32D, 0x1F335}, {0x1F337, 0x1F37C},
    {0x1F37E, 0x1F393}, {0x1F3A0, 0x1F3CA}, {0x1F3CF, 0x1F3D3}, {0x1F3E0, 0x1F3F0}, {0x1F3F4, 0x1F3F4},
    {0x1F3F8, 0x1F43E}, {0x1F440, 0x1F440}, {0x1F442, 0x1F4FC}, {0x1F4FF, 0x1F53D}, {0x1F54B, 0x1F54E},
    {0x1F550, 0x1F567}, {0x1F57A, 0x1F57A}, {0x1F595, 0x1F596}, {0x1F5A4, 0x1F5A4}, {0x1F5FB, 0x1F64F},
    {0x1F680, 0x1F6C5}, {0x1F6CC, 0x1F6CC}, {0x1F6D0, 0x1F6D2}, {0x1F6D5, 0x1F6D7}, {0x1F6DC, 0x1F6DF},
    {0x1F6EB, 0x1F6EC}, {0x1F6F4, 0x1F6FC}, {0x1F7E0, 0x1F7EB}, {0x1F7F0, 0x1F7F0}, {0x1F90C, 0x1F93A},
    {0x1F93C, 0x1F945}, {0x1F947, 0x1F9FF}, {0x1FA70, 0x1FAFF}, {0x20000, 0x3FFFD},
};

template <std::size_t N>
bool in_table(const Range (&table)[N], char32_t c) {
    const Range* found = std::upper_bound(std::begin(table), std::end(table), c,
                                          [](char32_t value, const Range& range) { return value < range.first; });
    return found != std::begin(table) && c <= std::prev(found)->last;
}

bool control(char32_t c) { return c < 0x20 || (c >= 0x7F && c < 0xA0); }

/// Widths of successive code points, with what depends on the one before: joined emoji, skin tones, flags, VS16.
class WidthScanner {
public:
    int add(char32_t c) {
        int width = 1;
        const bool flag = c >= 0x1F1E6 && c <= 0x1F1FF;
        if (c == 0xFE0F) {  // "draw it as an emoji": a narrow sign becomes wide
            width = last_ == 1 && !joined_ && before_ > 0x7F ? 1 : 0;
            last_ = 2;
        } else if (control(c) || in_table(zero_width, c)) {
            width = 0;
        } else if (joined_ || (flag && half_flag_) || (c >= 0x1F3FB && c <= 0x1F3FF && last_ == 2)) {
            width = 0;
        } else {
            width = flag || in_table(wide, c) ? 2 : 1;
            last_ = width;
        }
        half_flag_ = flag && !half_flag_;
        joined_ = c == 0x200D && last_ == 2;
        before_ = c;
        return width;
    }

private:
    int last_ = 0;
    char32_t before_ = 0;
    bool joined_ = false, half_flag_ = false;
};

void append(std::string& out, std::string_view text, std::size_t from, std::size_t to) { out.append(text.substr(from, to - from)); }

/// The length of the character at `at` if it is UTF-8, else 0.
std::size_t decode(std::string_view text, std::size_t at, char32_t& c) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char b = byte(at);
    if (b < 0x80) {
        c = b;
        return 1;
    }
    const std::size_t n = b >= 0xC2 && b <= 0xDF ? 2 : b >= 0xE0 && b <= 0xEF ? 3 : b >= 0xF0 && b <= 0xF4 ? 4 : 0;
    if (n == 0 || at + n > text.size()) return 0;
    c = b & (0x7F >> n);
    for (std::size_t i = 1; i < n; ++i) {
        if ((byte(at + i) & 0xC0) != 0x80) return 0;
        c = c << 6 | (byte(at + i) & 0x3F);
    }
    const char32_t least = n == 2 ? 0x80 : n == 3 ? 0x800 : 0x10000;
    return c < least || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) ? 0 : n;
}

volatile std::sig_atomic_t interrupt_seen = 0;
extern "C" void on_interrupt(int) { interrupt_seen = 1; }

}  // namespace

char32_t next_code_point(std::string_view text, std::size_t& at) {
    char32_t c = 0;
    const std::size_t n = decode(text, at, c);
    at += n ? n : 1;
    return n ? c : U'\uFFFD';
}

bool valid_utf8(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        char32_t c;
        const std::size_t n = decode(text, at, c);
        if (n == 0) return false;
        at += n;
    }
    return true;
}

int display_width(std::string_view text) {
    WidthScanner scanner;
    int width = 0;
    for (std::size_t at = 0; at < text.size();) width += scanner.add(next_code_point(text, at));
    return width;
}

std::string fit(std::string_view text, int columns) {
    const std::string line = one_line(text);
    if (display_width(line) <= columns) return line;
    if (columns < 1) return {};
    WidthScanner scanner;
    int width = 0;
    std::size_t end = 0;
    for (std::size_t at = 0; at < line.size();) {
        width += scanner.add(next_code_point(line, at));
        if (width > columns - 1) break;
        end = at;
    }
    return line.substr(0, end) + "…";
}

std::string pad(std::string_view text, int columns) {
    std::string out(text);
    out.append(static_cast<std::size_t>(std::max(0, columns - display_width(text))), ' ');
    return out;
}

std::string printable(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t from = at;
        const char32_t c = next_code_point(text, at);
        if (c == U'\uFFFD') out += "\uFFFD";
        else if (!control(c) || c == '\n' || c == '\t') append(out, text, from, at);
    }
    return out;
}

std::string one_line(std::string_view text) {
    std::string out;
    for (char c : printable(text)) {
        if (c == '\n' || c == '\t') c = ' ';
        if (c != ' ' || (!out.empty() && out.back() != ' ')) out += c;
    }
    while (!out.empty() && out.back() == ' ') out.pop_back();
    return out;
}

Terminal::Terminal(bool no_color)
    : in_(::isatty(STDIN_FILENO) == 1), out_(::isatty(STDOUT_FILENO) == 1), err_(::isatty(STDERR_FILENO) == 1) {
    const char* variable = std::getenv("NO_COLOR");
    const char* term = std::getenv("TERM");
    const bool color = !no_color && !(variable && *variable) && term && *term && std::strcmp(term, "dumb") != 0;
    color_out_ = color && out_;
    color_err_ = color && err_;
}

std::string Terminal::paint(std::string_view text, Style style, bool color) {
    if (!color || style == Style::plain) return std::string(text);
    const char* code = style == Style::dim    ? "2"
                       : style == Style::bold ? "1"
                       : style == Style::good ? "32"
                       : style == Style::warn ? "33"
                                              : "31";
    return "\033[" + std::string(code) + "m" + std::string(text) + "\033[0m";
}

int Terminal::columns() const {
    winsize size{};
    for (int fd : {STDOUT_FILENO, STDERR_FILENO})
        if (::isatty(fd) && ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    return 80;
}

void Spinner::tick() {
    using namespace std::chrono_literals;
    if (!terminal_.err_is_terminal()) return;
    const auto now = std::chrono::steady_clock::now();
    if (now - begin_ < 300ms || now - last_ < 100ms) return;
    last_ = now;
    static constexpr const char* frames[] = {"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"};
    const std::string line = std::string(frames[frame_++ % std::size(frames)]) + " " + fit(text_, terminal_.columns() - 3);
    std::fprintf(stderr, "\r\033[K%s", terminal_.paint_error(line, Style::dim).c_str());
    std::fflush(stderr);
    shown_ = true;
}

void Spinner::clear() {
    if (!shown_) return;
    std::fputs("\r\033[K", stderr);
    std::fflush(stderr);
    shown_ = false;
}

std::string human_bytes(double bytes) {
    static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    std::size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < std::size(units)) bytes /= 1024, ++unit;
    char text[48];
    std::snprintf(text, sizeof text, unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return text;
}

std::string human_seconds(double seconds) {
    char text[64];
    const auto s = static_cast<long long>(seconds + 0.5);
    if (seconds < 10) std::snprintf(text, sizeof text, "%.1f s", seconds);
    else if (s < 60) std::snprintf(text, sizeof text, "%lld s", s);
    else if (s < 3600) std::snprintf(text, sizeof text, "%lld min %lld s", s / 60, s % 60);
    else if (s < 86400) std::snprintf(text, sizeof text, "%lld h %lld min", s / 3600, s % 3600 / 60);
    else std::snprintf(text, sizeof text, "%lld d %lld h", s / 86400, s % 86400 / 3600);
    return text;
}

std::string human_time(std::int64_t unix_seconds) {
    const std::time_t time = static_cast<std::time_t>(unix_seconds);
    std::tm parts{};
    char text[32] = "-";
    if (unix_seconds > 0 && ::localtime_r(&time, &parts)) std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts);
    return text;
}

void catch_interrupts() {
    struct sigaction action {};
    action.sa_handler = on_interrupt;
    ::sigemptyset(&action.sa_mask);
    ::sigaction(SIGINT, &action, nullptr);  // no SA_RESTART: blocking reads must return
    ::sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return interrupt_seen != 0; }
void forget_interrupt() { interrupt_seen = 0; }

bool read_line(std::string& line) {
    line.clear();
    for (int c; (c = std::getc(stdin)) != EOF;) {
        if (c == '\n') return true;
        line += static_cast<char>(c);
    }
    std::clearerr(stdin);
    return !line.empty() && !interrupted();
}

std::string piped_input() {
    constexpr std::size_t most = 16u << 20;
    struct stat info {};
    // Under cron or a service manager it may be a device or closed: waiting for it would hang.
    if (::fstat(STDIN_FILENO, &info) != 0 || !(S_ISFIFO(info.st_mode) || S_ISREG(info.st_mode) || S_ISSOCK(info.st_mode)))
        return {};
    std::string text;
    char buffer[65536];
    for (;;) {
        const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
        if (n == 0) return text;
        if (n < 0) {
            if (interrupted()) throw CliError(Exit::interrupted, "interrupted");
            if (errno == EINTR) continue;
            throw CliError(Exit::error, "can't read standard input");
        }
        text.append(buffer, static_cast<std::size_t>(n));
        if (text.size() > most) throw CliError(Exit::too_long, "standard input is longer than 16 MiB");
    }
}

}  // namespace glmd
