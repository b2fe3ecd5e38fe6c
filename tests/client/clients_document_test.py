"""Runs every program of docs/clients.md that this machine can run; each finds out the capital of France."""
import os
import re
import shutil
import subprocess
import sys

from glmd_fixture import Daemon

PYTHON = [sys.executable, "-B"]
# language: the program's file, how it is built, and run
LANGUAGES = {
    "sh": ("ask.sh", None, ["bash", "-eu", "-o", "pipefail", "ask.sh"]),
    "python": ("ask.py", None, [*PYTHON, "ask.py"]),
    "c": ("ask.c", ["cc", "-Wall", "-Wextra", "-Werror", "-O1", "ask.c", "-o", "ask-c", "-lcurl"], ["./ask-c"]),
    "cpp": ("ask.cpp", ["c++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-O0", "ask.cpp", "-o", "ask-cpp", "-lcurl", "-lboost_json"], ["./ask-cpp"]),
    "js": ("ask.js", None, ["node", "ask.js"]),
    "go": ("ask.go", None, ["go", "run", "ask.go"]),
}
blocks = re.findall(r"^```(\w+)\n(.*?)^```", open(sys.argv[1]).read(), re.M | re.S)
assert [language for language, _ in blocks] == ["sh", "python", "python", "c", "cpp", "js", "go"], [language for language, _ in blocks]

with Daemon() as daemon:
    # Go keeps what it compiled below HOME, and asks its proxy for nothing.
    environment = dict(os.environ, GLM_SOCKET=daemon.socket, GOCACHE=os.path.join(daemon.folder, "go-build"), GOPROXY="off")
    for language, text in blocks:
        if language in ("js", "go") and not shutil.which(LANGUAGES[language][2][0]):
            print(f"left out: {language}")
            continue
        file, build, run = LANGUAGES[language]
        with open(os.path.join(daemon.folder, file), "w") as out:
            out.write(text)
        for command in filter(None, (build, run)):
            done = subprocess.run(command, cwd=daemon.folder, env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, (language, command, done.stdout[-2000:], done.stderr[-2000:])
        assert "Paris" in done.stdout and done.stderr == "", (language, done.stdout, done.stderr)
        # Without a daemon each says so, and fails.
        if language != "sh":
            done = subprocess.run(run, cwd=daemon.folder, env=dict(environment, GLM_SOCKET="/nonexistent/glmd.sock"), capture_output=True, text=True, timeout=120)
            assert done.returncode != 0 and done.stderr.strip(), (language, done)
    lines = sum(1 for line in blocks[3][1].splitlines())
    assert lines <= 65, f"the C program has {lines} lines"
