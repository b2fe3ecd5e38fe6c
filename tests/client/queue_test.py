"""Service tiers, the queue's bounds and events, and the reuse of a conversation's beginning."""
import json
import tempfile

from glmd_fixture import LONG_STORY, Daemon, eventually

STORY = {"input": LONG_STORY, "temperature": 0, "max_output_tokens": 4000, "store": False}  # greedily it goes on for long


def events_of(response):
    """(event, data) of a typed stream, one by one."""
    name = ""
    for line in response:
        line = line.decode().rstrip("\n")
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def chat(text, **more):
    return dict({"messages": [{"role": "user", "content": text}], "temperature": 0}, **more)


with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
    config.write("[engine]\nmax_sequences = 1\nmax_queue = 3\nmax_queue_per_uid = 2\n")
    config.flush()
    with Daemon(arguments=["--config", config.name]) as daemon:
        # Tiers are checked, and said back.
        for tier, shown in [("auto", "default"), ("default", "default"), ("flex", "flex"), ("priority", "priority")]:
            answer = daemon.post("/v1/chat/completions", chat("Hi", max_tokens=2, service_tier=tier))
            assert answer["service_tier"] == shown, answer
            answer = daemon.post("/v1/responses", {"input": "Hi", "max_output_tokens": 2, "service_tier": tier, "store": False})
            assert answer["service_tier"] == shown, answer
        status, body = daemon.request("POST", "/v1/chat/completions", chat("Hi", service_tier="scale"))
        assert status == 400 and body["error"]["param"] == "service_tier", body

        # What was said before isn't computed again.
        question = "Name three large rivers of Europe, and say one short sentence about each of them."
        first = daemon.post("/v1/chat/completions", chat(question, max_tokens=40))
        again = daemon.post("/v1/chat/completions", chat(question, max_tokens=40))
        assert first["choices"][0]["message"] == again["choices"][0]["message"]
        cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached == again["usage"]["prompt_tokens"] - 1, again["usage"]
        answer = daemon.post("/v1/responses", {"input": question, "max_output_tokens": 4, "store": False})
        assert answer["usage"]["input_tokens_details"]["cached_tokens"] == cached, answer["usage"]
        engine = daemon.get("/v1/glm/status")["engine"]
        assert engine["cached_tokens"] >= 2 * cached and engine["kv_blocks_cached"] > 0, engine

        # One runs; two wait, and are told their places; a third is one too many.
        running, story = daemon.open_stream("/v1/responses", STORY)
        stream = events_of(story)
        kinds = [next(stream)[0] for _ in range(5)]
        assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                             "response.content_part.added"], kinds
        waiting = []
        for place in (1, 2):
            connection, response = daemon.open_stream("/v1/responses", {"input": "Say hello.", "max_output_tokens": 4, "store": False})
            mine = events_of(response)
            assert next(mine)[0] == "response.created"
            kind, data = next(mine)
            assert kind == "response.queued" and data["response"]["status"] == "queued", (kind, data)
            assert data["response"]["glm"]["queue_position"] == place, data
            waiting.append((connection, mine))
        status = daemon.get("/v1/glm/status")["engine"]
        assert status["classes"]["default"] == {"running": 1, "queued": 2}, status
        status, body = daemon.request("POST", "/v1/chat/completions", chat("Hi", max_tokens=2))
        assert status == 429 and body["error"]["code"] == "quota_exceeded", (status, body)

        # The one that runs goes away: the others have their turns.
        story.close()
        running.close()
        for number, (connection, mine) in enumerate(waiting):
            kinds = [kind for kind, _ in mine]
            assert ("response.queued" in kinds) == (number == 1), kinds  # the second moved up
            kinds = [kind for kind in kinds if kind != "response.queued"]
            assert kinds[:3] == ["response.in_progress", "response.output_item.added", "response.content_part.added"], kinds
            assert kinds[-1] in ("response.completed", "response.incomplete"), kinds
            connection.close()
        eventually(lambda: daemon.running() == 0, 5, "the engine being idle")

        # A priority request has a place of its own beside the one that runs.
        running, story = daemon.open_stream("/v1/responses", STORY)
        stream = events_of(story)
        while next(stream)[0] != "response.output_text.delta":
            pass
        answer = daemon.post("/v1/chat/completions", chat("Hi", max_tokens=4, service_tier="priority"))
        assert answer["choices"][0]["message"]["content"]
        assert daemon.running() == 1
        story.close()
        running.close()
        eventually(lambda: daemon.running() == 0, 5, "the story stopping")
