"""glm top: what it prints of a daemon at work, as text and as JSON."""
import json
import subprocess

from glmd_fixture import LONG_STORY, Daemon, needed, read_deltas

glm = needed("GLM_PROGRAM")


def top(daemon, *arguments):
    return subprocess.run([glm, "--socket", daemon.socket, "top", "-n", "0.5", *arguments], check=True, capture_output=True, timeout=60).stdout.decode()


with Daemon() as daemon:
    idle = top(daemon)
    assert "glmd " in idle and "tokens/s" in idle and idle.count("priority") == 1 and "\x1b" not in idle, idle
    connection, stream = daemon.open_stream("/v1/responses", {"input": LONG_STORY, "max_output_tokens": 4000, "service_tier": "flex"})
    read_deltas(stream, 40)
    frame = json.loads(top(daemon, "--once", "--json"))
    flex = frame["classes"]["flex"]
    assert flex["running"] == 1 and flex["completion_tokens_per_s"] > 1, frame
    assert frame["completion_tokens_per_s"] == flex["completion_tokens_per_s"], frame
    assert 0 < flex["inter_token_p50_s"] <= flex["inter_token_p99_s"] < 10, frame
    assert flex["first_token_p50_s"] is None, frame  # that was before
    assert frame["kv"]["used_blocks"] > 0 and frame["cpus"] > 0.05, frame
    assert frame["classes"]["priority"]["inter_token_p50_s"] is None
    stream.close()
    connection.close()
