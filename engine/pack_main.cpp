#include "engine/checkpoint/pack.h"

int main(int argc, char** argv) { return glmd::pack_main(argc, argv); }
