#!/bin/bash
# arm64_test.sh BUILD PROCESSOR: the kernels' tests of an arm64 build, on a processor that qemu plays.
set -euo pipefail
build=$1 processor=$2
if ! command -v qemu-aarch64-static >/dev/null; then
  echo "skipped: qemu-aarch64-static isn't installed"
  exit 0
fi
if [ ! -x "$build/tests/kernels/test_kernels_golden" ]; then
  echo "skipped: $build isn't built (cmake --preset arm64 && cmake --build build/arm64)"
  exit 0
fi
on_arm=(qemu-aarch64-static -cpu "$processor" -L /usr/aarch64-linux-gnu)
echo "$processor: all but [large], which takes minutes here"
"${on_arm[@]}" "$build/tests/kernels/test_kernels" '~[large]' -d yes
[ -z "${GLMD_GOLDEN:-}" ] || "${on_arm[@]}" "$build/tests/kernels/test_kernels_golden"
