#include "engine/checkpoint/pack.h"

#ifdef __SANITIZE_ADDRESS__
/// The locked-down child may not be traced, and the leak checker works by tracing: it would end every child.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
#endif

int main(int argc, char** argv) { return glmd::pack_main(argc, argv); }
