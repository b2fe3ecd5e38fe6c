"""Models are loaded on demand, one at a time; SIGHUP loses no stream; idle weights go and come back; SIGTERM lets running
answers finish, or stores what there is of them."""
import os
import signal
import tempfile
import threading
import time

from glmd_fixture import LONG_STORY, Daemon, eventually, read_deltas


def chat(daemon, model=None, tokens=8):
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": tokens, "temperature": 0}
    if model:
        body["model"] = model
    return daemon.request("POST", "/v1/chat/completions", body)


def model_of(daemon):
    return daemon.get("/v1/glm/status")["model"]


def until_end(response):
    return response.read().decode()


with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
    config.write("[server]\nidle_unload_s = 1\n")
    config.flush()
    daemon = Daemon(arguments=["--config", config.name])
    daemon.cache = os.path.join(daemon.folder, "cache")   # for a second model
    with daemon:
        # Another name for the same file is the same model; two files are two.
        models = os.path.join(daemon.folder, "state", "models")
        other = os.path.join(models, "other.gguf")
        with open(daemon.model, "rb") as source, open(other, "wb") as copy:
            copy.write(source.read())
        names = [model["id"] for model in daemon.get("/v1/models")["data"]]
        main = names[0]
        assert "other" in names, names
        status, body = chat(daemon, "no-such-model")
        assert status == 404 and body["error"]["code"] == "model_not_found", body

        # Both are asked for at once: each is loaded in its turn, nobody is refused.
        answers = {}
        threads = [threading.Thread(target=lambda m=m, i=i: answers.update({(m, i): chat(daemon, m)})) for i in range(2) for m in (main, "other")]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert [status for status, _ in answers.values()] == [200] * 4, answers
        assert all(body["model"] == model for (model, _), (_, body) in answers.items()), answers
        texts = {body["choices"][0]["message"]["content"] for _, body in answers.values()}
        assert len(texts) == 1, texts

        # Idle: the weights go, the daemon is still well, and the next request waits for them.
        eventually(lambda: model_of(daemon)["state"] == "unloaded", 20, "the model being unloaded")
        assert daemon.request("GET", "/health")[0] == 200
        status, body = chat(daemon, main)
        assert status == 200 and body["model"] == main, body
        assert model_of(daemon)["state"] == "ready"

        # A reload with other settings waits for the stream, and new requests wait for the reload.
        connection, response = daemon.open_stream("/v1/responses", {"input": LONG_STORY, "max_output_tokens": 150, "temperature": 0})
        read_deltas(response, 20)
        with open(config.name, "w") as file:
            file.write("[engine]\ncontext = 2048\n")
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: model_of(daemon)["state"] == "loading", 10, "the reload")
        waiting = threading.Thread(target=lambda: answers.update(late=chat(daemon)))
        waiting.start()
        rest = until_end(response)
        assert "response.completed" in rest or '"max_output_tokens"}' in rest, rest[-600:]
        waiting.join()
        assert answers["late"][0] == 200, answers["late"]
        assert model_of(daemon)["context"] == 2048

        # One that changes nothing of the engine keeps it.
        steps = daemon.get("/v1/glm/status")["engine"]["steps"]
        assert steps > 0
        with open(config.name, "a") as file:
            file.write("[server]\nverbose = true\nrequest_timeout_s = 1\n")
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: "read again" in daemon.log_text()[-400:], 10, "the reload")
        assert daemon.get("/v1/glm/status")["engine"]["steps"] >= steps
        answer = daemon.post("/v1/responses", {"input": LONG_STORY, "max_output_tokens": 1900, "temperature": 0})
        assert answer["status"] == "incomplete" and answer["incomplete_details"]["reason"] == "deadline", answer["status"]

# SIGTERM: what runs may finish, and what is new is refused.
daemon = Daemon().start()
try:
    connection, response = daemon.open_stream("/v1/responses", {"input": LONG_STORY, "max_output_tokens": 120, "temperature": 0})
    read_deltas(response, 20)
    daemon.process.send_signal(signal.SIGTERM)
    rest = until_end(response)
    assert '"max_output_tokens"}' in rest or "response.completed" in rest, rest[-600:]
    assert daemon.process.wait(timeout=30) == 0

    # Too long for that: a second signal ends it, and what there is is stored.
    daemon.start()
    connection, response = daemon.open_stream("/v1/responses", {"input": LONG_STORY, "max_output_tokens": 4000, "temperature": 0})
    read_deltas(response, 20)
    daemon.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    rest = until_end(response)
    assert "response.incomplete" in rest and '"interrupted"' in rest, rest[-600:]
    assert daemon.process.wait(timeout=30) == 0 and time.monotonic() - began < 8
finally:
    if daemon.process.poll() is None:
        daemon.kill()
