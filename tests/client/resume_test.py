"""A long conversation goes on after a restart from its snapshot: nearly the whole prompt is there, and the answer is the one
that a daemon without snapshots gives. What may not be kept isn't; what was torn is computed again."""
import glob
import os
import stat
import tempfile

from glmd_fixture import Daemon, eventually

# Slow enough that a snapshot pays on any machine.
ENGINE = "[engine]\nprecision = \"exact\"\nkv_type = \"f16\"\nthreads = 1\n"
TOPIC = "Here is what I know of lighthouses: " + " ".join(
    f"lighthouse number {n} stands {n * 7 % 90} miles from the harbour and shines every {n % 9 + 2} seconds." for n in range(30))


def turn(daemon, session, text):
    answer = daemon.post("/v1/responses", {"conversation": session, "input": text, "max_output_tokens": 24, "temperature": 0})
    usage = answer["usage"]
    return answer["output"][0]["content"][0]["text"], usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]


def files(daemon):
    return glob.glob(os.path.join(daemon.folder, "state", "kv", "kv_*"))


def talk(daemon, session, restart):
    turns = [turn(daemon, session, TOPIC), turn(daemon, session, "Which of them is the nearest?")]
    restart()
    return turns + [turn(daemon, session, "And which one is the farthest?")]


def stop_and_start(daemon):
    assert daemon.stop() == 0
    daemon.start()


with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
    config.write(ENGINE + "[storage]\nsnapshot_bytes = 0\n")
    config.flush()
    with Daemon(arguments=["--config", config.name]) as daemon:
        plain = talk(daemon, daemon.post("/v1/conversations", {})["id"], lambda: stop_and_start(daemon))
        assert plain[2][2] == 0 and not files(daemon), plain

with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
    config.write(ENGINE)
    config.flush()
    with Daemon(arguments=["--config", config.name]) as daemon:
        session = daemon.post("/v1/conversations", {})["id"]
        doomed = daemon.post("/v1/conversations", {})["id"]
        turn(daemon, doomed, TOPIC)
        assert daemon.request("DELETE", f"/v1/conversations/{doomed}")[0] == 200
        daemon.post("/v1/responses", {"input": TOPIC + " Be brief.", "store": False, "max_output_tokens": 4})
        kept = talk(daemon, session, lambda: stop_and_start(daemon))
        assert [text for text, _, _ in kept] == [text for text, _, _ in plain], (kept, plain)
        text, tokens, cached = kept[2]
        assert tokens > 600 and cached > tokens - 40, (tokens, cached)
        status = daemon.get("/v1/glm/status")
        assert status["snapshots"]["files"] == 1 and status["snapshots"]["loaded"] == 1, status["snapshots"]
        assert status["engine"]["resumed_tokens"] == cached, status["engine"]
        [path] = files(daemon)   # neither the deleted conversation's nor the one that isn't stored
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

        # Torn: as if it weren't there.
        daemon.kill()
        with open(path, "r+b") as file:
            file.seek(os.path.getsize(path) // 2)
            file.write(b"torn")
        daemon.start()
        text, tokens, cached = turn(daemon, session, "Thank you.")
        assert cached == 0, cached
        assert daemon.get("/v1/glm/status")["snapshots"]["refused"] == 1

        # A chain of responses has one, too, and a deleted conversation's goes.
        first = daemon.post("/v1/responses", {"input": TOPIC, "max_output_tokens": 8, "temperature": 0})
        stop_and_start(daemon)
        second = daemon.post("/v1/responses", {"input": "Go on.", "previous_response_id": first["id"], "max_output_tokens": 8})
        assert second["usage"]["input_tokens_details"]["cached_tokens"] > 500, second["usage"]
        assert len(files(daemon)) == 2
        assert daemon.request("DELETE", f"/v1/conversations/{session}")[0] == 200
        eventually(lambda: len(files(daemon)) == 1, 5, "the deleted conversation's snapshot going")

# At rest long enough, it is written while the daemon runs.
with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
    config.write(ENGINE + "[storage]\nsnapshot_after_s = 0\n")
    config.flush()
    with Daemon(arguments=["--config", config.name]) as daemon:
        session = daemon.post("/v1/conversations", {})["id"]
        turn(daemon, session, TOPIC)
        eventually(lambda: daemon.get("/v1/glm/status")["snapshots"]["files"] == 1, 10, "the snapshot")
        daemon.kill()
        daemon.start()
        text, tokens, cached = turn(daemon, session, "Which of them is the nearest?")
        assert cached > tokens - 60, (tokens, cached)
