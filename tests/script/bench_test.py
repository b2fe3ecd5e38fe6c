"""bench_test.py SCRIPT: script/bench with a glm and llama-benches that say known figures."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

SCRIPT = sys.argv[1]

GLM = """#!/usr/bin/python3
import json, sys
one = lambda x: {"median": x, "min": x, "max": x}
value = lambda option: sys.argv[sys.argv.index(option) + 1]
if "--limits" in sys.argv:
    print(json.dumps({"threads": 2, "bandwidth": one(30e9), "int8": one(450e9), "int8_loop": "avx512vnni"}))
    sys.exit()
assert value("--threads") == "2" and value("--repeat") == "1" and sys.argv[-1].endswith(".gguf")
sizes = lambda option: [int(n) for n in value(option).split(",") if n != "0"]
figure = lambda key, n, rate, share: {key: n, "tokens_per_s": one(rate), "seconds": one(1 / rate), "bandwidth": one(30e9), "int8": one(450e9), **share}
print(json.dumps({
    "model": "m", "architecture": "chatglm", "quantization": "q4_0", "parameters": 1, "backend": "cpu", "precision": "fast", "kv_type": "f16",
    "threads": 2, "int8_loop": "avx512vnni", "weight_bytes_per_token": 1, "macs_per_token": 1, "kv_bytes_per_token_seen": 1, "in_cache": False, "copied": False, "packed_bytes": 1,
    "load_s": one(0.5), "peak_bytes": 1000, "energy": None, "left_out": [],
    "prefill": [figure("prompt", n, 100, {"share": one(0.4)}) for n in sizes("--prompt")],
    "decode": [figure("context", n, 1280 / n, {"share": one(90 / n)}) for n in sizes("--context")],
    "step": [figure("batch", n, 10 * n, {"over_limit": one(1.1)}) for n in sizes("--batch")]}))
"""

# Decodes at 8 tokens a second and does prompts at 50; with -x at 5 and 80. The old kind has no -d, and says the figure last.
LLAMA_BENCH = """#!/usr/bin/python3
import json, sys
arguments = sys.argv[1:]
old = %s
if "--help" in arguments:
    print("  -gp <pp,tg>" if old else "  -d, --n-depth <n>")
    sys.exit()
value = lambda option: arguments[arguments.index(option) + 1] if option in arguments else "0"
assert value("-t") == "2" and value("-r") == "1" and value("-o") == "json"
if "-broken" in arguments:
    sys.exit("it broke")
x = "-x" in arguments
if value("-p") != "0":
    rate = 80 if x else 50
elif old:
    assert value("-n") == "0" and value("-gp") == "128,4"
    rate = 9
else:
    assert value("-n") == "4" and value("-d") == "128"
    rate = 5 if x else 8
print("some words before it\\n" + json.dumps([{"avg_ts": rate, "build_commit": "abc"}]))
"""

SLEEPER = """#!/bin/bash
sleep 600 &
echo $! $$ > "$(dirname "$0")/pids"
wait
"""


def program(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def bench(folder, *arguments):
    command = [sys.executable, SCRIPT, str(folder / "m.gguf"), "--glm", str(folder / "glm"), "--measured", str(folder / "measured"), "--rounds", "2",
               "--tokens", "4", "--prompt", "512", "--context", "128", "--batch", "1,2", "--json", str(folder / "out.json"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def result(folder):
    return json.loads((folder / "out.json").read_text())


def near(a, b):
    return abs(a - b) < 1e-9


def ratios(folder):
    done = bench(folder, "--peer", str(folder / "new/build/bin/llama-bench"), "--peer-args=", "--peer-args=-x", "--peer-args=-broken",
                 "--peer", str(folder / "old/llama-bench"), "--peer-model", str(folder / "other.gguf"), "--demo-model", str(folder / "small.gguf"))
    assert done.returncode == 0, done.stderr
    assert "it broke" in done.stderr
    r = result(folder)
    assert list(r)[:4] == ["decode_share", "decode_ratio", "prefill_ratio", "prefill_share"]
    assert near(r["decode_ratio"], 10 / 9) and near(r["prefill_ratio"], 100 / 80), r
    assert near(r["decode_share"], 90 / 128) and near(r["prefill_share"], 0.4)
    prefill, decode = r["figures"]
    assert prefill["best"] == "new m -x" and decode["best"] == "old other"
    assert len(prefill["tokens_per_s"]["samples"]) == 2 and "new m -broken" not in prefill["rivals"]
    assert near(decode["rivals"]["new m"]["ratio"]["median"], 10 / 8)
    assert near(r["demo"]["figures"][0]["ratio"]["median"], 10 / 9)
    assert [s["batch"] for s in r["step"]] == [1, 2]
    assert r["machine"]["bandwidth_mode"] == "steady" and r["compared_with"] is None
    assert "1.25" in done.stdout and "new m -x" in done.stdout, done.stdout


def regressions(folder):
    assert bench(folder).returncode == 0
    good = result(folder)
    assert good["decode_ratio"] is None and good["figures"][0]["rivals"] == {}
    measured = folder / "measured"
    measured.mkdir()
    git = lambda *arguments: subprocess.run(["git", "-C", measured, "-c", "user.name=n", "-c", "user.email=e", *arguments], check=True, capture_output=True)
    git("init")
    good["figures"][1]["share"]["median"] *= 1.04  # within what is tolerated
    (measured / "a.json").write_text(json.dumps(good))
    git("add", "a.json")
    git("commit", "-m", "a")
    good["date"] = "9"
    good["figures"][1]["share"]["median"] *= 2
    (measured / "b.json").write_text(json.dumps(good))  # not committed
    done = bench(folder)
    assert done.returncode == 0 and "nothing is worse" in done.stdout, done.stdout
    git("add", "b.json")
    git("commit", "-m", "b")
    done = bench(folder)
    assert done.returncode == 1 and "WORSE  decode 128, share" in done.stdout, done.stdout
    assert [r["what"] for r in result(folder)["regressions"]] == ["decode 128, share"] and result(folder)["compared_with"] == "b.json"


def interrupt(folder):
    pids = folder / "pids"
    command = [sys.executable, SCRIPT, str(folder / "m.gguf"), "--glm", str(folder / "glm"), "--prompt", "512", "--context", "0", "--peer", str(folder / "sleeper")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (pids.exists() and pids.read_text().strip()):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == 130, child.stderr.read()
    for pid in map(int, pids.read_text().split()):
        stat = pathlib.Path("/proc/%d/stat" % pid)
        while stat.exists() and ") Z" not in stat.read_text():
            assert time.monotonic() < deadline, "a child is left over"
            time.sleep(0.05)


with tempfile.TemporaryDirectory() as name:
    scratch = pathlib.Path(name)
    program(scratch, "glm", GLM)
    program(scratch, "new/build/bin/llama-bench", LLAMA_BENCH % False)
    program(scratch, "old/llama-bench", LLAMA_BENCH % True)
    program(scratch, "sleeper", SLEEPER)
    ratios(scratch)
    regressions(scratch)
    interrupt(scratch)
print("good")
