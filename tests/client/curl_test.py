"""curl over the socket: streaming, and a body large enough that curl asks first (Expect: 100-continue)."""
import json
import os
import subprocess

from glmd_fixture import Daemon


def curl(daemon, *arguments):
    result = subprocess.run(["curl", "-sS", "--max-time", "120", "--unix-socket", daemon.socket, *arguments],
                            capture_output=True, check=True)
    return result.stdout.decode()


with Daemon() as daemon:
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 12, "temperature": 0, "stream": True}
    said = curl(daemon, "-N", "-D", os.path.join(daemon.folder, "headers"), "-H", "Content-Type: application/json",
                "-d", json.dumps(body), "http://localhost/v1/chat/completions")
    headers = open(os.path.join(daemon.folder, "headers")).read().lower()
    assert "text/event-stream" in headers, headers
    events = [line[6:] for line in said.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events[-1]
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text and len(chunks) > 3, said
    assert any(c["finish_reason"] in ("stop", "length") for chunk in chunks for c in chunk["choices"]), said

    # 3 MB of prompt can't fit the model: an orderly refusal, with the interim answer before it.
    big = os.path.join(daemon.folder, "big.json")
    with open(big, "w") as file:
        json.dump({"messages": [{"role": "user", "content": "word " * 600_000}], "max_tokens": 4}, file)
    result = subprocess.run(["curl", "-sSv", "--max-time", "120", "--unix-socket", daemon.socket,
                             "-H", "Content-Type: application/json", "-H", "Expect: 100-continue", "-d", f"@{big}",
                             "-w", "\n%{http_code}", "http://localhost/v1/chat/completions"],
                            capture_output=True, check=True)
    answer, status = result.stdout.decode().rsplit("\n", 1)
    assert b"100 Continue" in result.stderr, result.stderr[-2000:]
    assert status == "400", (status, answer)
    assert json.loads(answer)["error"]["code"] == "context_length_exceeded", answer

    # Large, and nothing to refuse: the padding is in metadata that isn't there, so only the white space is big.
    padded = os.path.join(daemon.folder, "padded.json")
    with open(padded, "w") as file:
        file.write(json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}) + " " * 3_000_000)
    answer = curl(daemon, "-H", "Content-Type: application/json", "-d", f"@{padded}", "-w", "\n%{http_code}",
                  "http://localhost/v1/chat/completions")
    assert answer.endswith("\n200"), answer[-300:]

    # And the daemon is as well as before.
    assert daemon.get("/health")
    assert daemon.running() == 0
