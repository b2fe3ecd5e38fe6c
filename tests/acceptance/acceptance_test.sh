#!/bin/bash
# acceptance_test.sh PROGRAM: what is right passes; with one operation broken it says so, and names it.
set -euo pipefail
out=$(mktemp)
trap 'rm -f "$out" "$out.json"' EXIT
for part in kernels models; do
  "$1" --backend cpu --part $part --small --json "$out.json" >"$out" || { cat "$out"; echo "the CPU should pass"; exit 1; }
  jq -e '.wrong == 0 and ([.checks[].checks] | add) > 40' "$out.json" >/dev/null || { cat "$out.json"; exit 1; }
done
for operation in linear rotary kv_write kv_copy attention top_k; do
  if "$1" --backend cpu --part kernels --small --plant $operation >"$out"; then echo "$operation is broken, and nobody saw it"; exit 1; fi
  grep -q "^WRONG" "$out" || { cat "$out"; echo "$operation: no word of what is wrong"; exit 1; }
done
