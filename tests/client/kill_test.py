"""SIGKILL in the middle of an answer: after the restart the answer's beginning is there, marked incomplete, and the
session goes on."""
import time

from glmd_fixture import LONG_STORY, Daemon, read_deltas

with Daemon() as daemon:
    session = daemon.post("/v1/conversations", {})["id"]
    first = daemon.post("/v1/responses", {"conversation": session, "input": "My name is Ada.", "max_output_tokens": 30,
                                          "temperature": 0})
    connection, response = daemon.open_stream(
        "/v1/responses", {"conversation": session, "input": LONG_STORY, "max_output_tokens": 3000, "temperature": 0})
    text = read_deltas(response, 100)
    began = time.monotonic()
    while time.monotonic() - began < 1.2:   # longer than the longest time between two checkpoints
        text += read_deltas(response, 1)
    daemon.kill()
    response.close()
    connection.close()

    daemon.start()
    items = daemon.get(f"/v1/conversations/{session}/items?order=asc&limit=100")["data"]
    assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant"], items
    assert [item["status"] for item in items] == ["completed", "completed", "completed", "incomplete"] or (
        first["status"] == "incomplete" and items[3]["status"] == "incomplete"), items
    kept = items[3]["content"][0]["text"]
    assert len(kept) >= 100 and text.startswith(kept), (kept, text)
    assert items[2]["content"][0]["text"] == LONG_STORY

    after = daemon.post("/v1/responses", {"conversation": session, "input": "What is my name?", "max_output_tokens": 20,
                                          "temperature": 0})
    assert after["usage"]["input_tokens"] > first["usage"]["input_tokens"] + 40, after["usage"]
    assert len(daemon.get(f"/v1/conversations/{session}/items?order=asc&limit=100")["data"]) == 6
