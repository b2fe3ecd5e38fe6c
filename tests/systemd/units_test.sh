#!/bin/bash
# units_test.sh UNIT_FOLDER DAEMON: the units, with ExecStart pointed at the built daemon, as systemd-analyze judges them.
set -euo pipefail
units=$1 daemon=$2
if ! command -v systemd-analyze >/dev/null; then echo "skipped: systemd-analyze isn't installed"; exit 0; fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sed "s|@GLMD_EXECUTABLE@|$daemon|" "$units/glmd.service.in" >"$folder/glmd.service"
cp "$units/glmd.socket" "$units/glmd-app@.socket" "$folder/"
ln -s glmd-app@.socket "$folder/glmd-app@kiosk.socket"

said=$(systemd-analyze verify --man=no --recursive-errors=no "$folder/glmd.service" "$folder/glmd.socket" "$folder/glmd-app@kiosk.socket" 2>&1) ||
  { echo "verify failed: $said"; exit 1; }
if grep glmd <<<"$said"; then echo "verify isn't silent"; exit 1; fi

# The threshold is in tenths: 7 means an exposure of at most 0.7.
systemd-analyze security --offline=true --no-pager --threshold=7 "$folder/glmd.service" | tail -n 1
if grep -q '^PrivateUsers=' "$folder/glmd.service"; then echo "PrivateUsers= would merge all users' sessions"; exit 1; fi
