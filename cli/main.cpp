// The locale is set for libedit only; where the system has none that speaks UTF-8, C.UTF-8 is taken so that Chinese can be
// typed on a bare machine too. Numbers stay in the C locale.
#include <langinfo.h>

#include <clocale>
#include <cstring>

#include "cli/app.h"
#include "cli/terminal.h"

int main(int argc, char** argv) {
    std::setlocale(LC_CTYPE, "");
    if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
    glmd::catch_interrupts();
    return glmd::run_app(argc, argv);
}
