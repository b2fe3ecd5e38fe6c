"""Runs every ```sh block of daemon/API.md, top to bottom in one shell, against a running daemon."""
import os
import re
import subprocess
import sys

from glmd_fixture import Daemon

document = sys.argv[1]
blocks = re.findall(r"^```sh\n(.*?)^```", open(document).read(), re.M | re.S)
assert len(blocks) >= 5, f"{document} has only {len(blocks)} sh blocks"

with Daemon() as daemon:
    # GLM_SOCKET is what the document's blocks name; whoever writes the default path means the same socket here.
    script = "set -eu -o pipefail\n" + "\n".join(f"echo '--- block {n + 1}'\n{block}" for n, block in enumerate(blocks))
    script = script.replace("/run/glmd/glmd.sock", daemon.socket)
    path = os.environ["PATH"]
    if os.environ.get("GLM_PROGRAM"):
        path = os.path.dirname(os.environ["GLM_PROGRAM"]) + ":" + path
    result = subprocess.run(["bash", "-c", script], env=dict(os.environ, GLM_SOCKET=daemon.socket, S=daemon.socket,
                                                             SOCKET=daemon.socket, PATH=path),
                            cwd=daemon.folder, capture_output=True, timeout=240)
    said = result.stdout.decode(errors="replace")
    assert result.returncode == 0, (result.returncode, said[-2000:], result.stderr.decode(errors="replace")[-2000:])
    # A documented call isn't to fail, except where the block itself is about an error.
    for number, (block, answer) in enumerate(zip(blocks, said.split("--- block ")[1:]), 1):
        if '"error":' in answer and "error" not in block.lower() and '"error":null' not in answer.replace(" ", ""):
            raise AssertionError(f"block {number} of {document} got an error:\n{block}\n{answer[:2000]}")
