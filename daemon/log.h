#pragma once
// Lines on stderr; under journald each starts with its priority. Never content: ids, counts, times only.
#include <string_view>

namespace glmd {

void log_debug(std::string_view line);  // only with --verbose
void log_info(std::string_view line);
void log_warning(std::string_view line);
void log_error(std::string_view line);
void set_log_verbose(bool verbose);

}  // namespace glmd
