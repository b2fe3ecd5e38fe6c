#pragma once
// Colours, a spinner, the width of text, and Ctrl-C.
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace glmd {

enum class Style { plain, dim, bold, good, warn, bad };

/// Which streams are terminals and may be coloured. Spinners go to stderr and only to a terminal.
class Terminal {
public:
    explicit Terminal(bool no_color);
    std::string paint(std::string_view text, Style style) const { return paint(text, style, color_out_); }
    std::string paint_error(std::string_view text, Style style) const { return paint(text, style, color_err_); }
    bool in_is_terminal() const { return in_; }
    bool out_is_terminal() const { return out_; }
    bool err_is_terminal() const { return err_; }
    bool color_out() const { return color_out_; }
    int columns() const;  // of stdout, else of stderr; 80 when neither is a terminal

private:
    static std::string paint(std::string_view text, Style style, bool color);
    bool in_, out_, err_, color_out_, color_err_;
};

/// One line on stderr that is redrawn and leaves nothing behind; silent where stderr isn't a terminal.
class Spinner {
public:
    explicit Spinner(const Terminal& terminal) : terminal_(terminal) {}
    ~Spinner() { clear(); }
    Spinner(const Spinner&) = delete;
    Spinner& operator=(const Spinner&) = delete;
    void say(std::string text) { text_ = std::move(text); }
    void tick();   // draws, at most every 100 ms and not in the first 300 ms
    void clear();

private:
    const Terminal& terminal_;
    std::string text_;
    bool shown_ = false;
    int frame_ = 0;
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now(), last_{};
};

/// Reads one code point at `at` and moves it; U+FFFD and one byte for what isn't UTF-8.
char32_t next_code_point(std::string_view text, std::size_t& at);
bool valid_utf8(std::string_view text);

/// Columns that UTF-8 text takes on a terminal (Chinese and emoji 2, combining marks 0).
int display_width(std::string_view text);
/// Cut to at most `columns`, with "…" where something was cut; on one line.
std::string fit(std::string_view text, int columns);
/// Filled with spaces up to `columns`.
std::string pad(std::string_view text, int columns);
/// Without control characters but newline and tab: a model's or a file's text must not drive the terminal.
std::string printable(std::string_view text);
/// printable(), on one line.
std::string one_line(std::string_view text);

std::string human_bytes(double bytes);       // "1.4 GiB"
std::string human_seconds(double seconds);   // "3 min 20 s"
std::string human_time(std::int64_t unix_seconds);  // local time, "2025-03-01 14:05"

/// Ctrl-C and SIGTERM set a flag instead of ending the process; blocking calls return EINTR.
void catch_interrupts();
bool interrupted();
void forget_interrupt();

/// A line of stdin without its newline; false at the end or when interrupted (which std::getline() would sleep through).
bool read_line(std::string& line);

/// All of stdin when it is a pipe, a file or a socket; else nothing. Throws CliError (interrupted, longer than 16 MiB).
std::string piped_input();

}  // namespace glmd
