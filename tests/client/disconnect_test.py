"""A client that goes away stops its generation, in chat and in responses, streamed or not."""
import json

from glmd_fixture import LONG_STORY, Daemon, UnixConnection, eventually, read_deltas

with Daemon() as daemon:
    assert daemon.running() == 0

    connection, response = daemon.open_stream("/v1/responses", {"input": LONG_STORY, "max_output_tokens": 4000})
    read_deltas(response, 40)
    assert daemon.running() == 1
    response.close()
    connection.close()
    eventually(lambda: daemon.running() == 0, 5, "the streamed response stopping")

    connection, response = daemon.open_stream(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": LONG_STORY}], "max_tokens": 4000})
    for _ in range(20):
        assert response.readline()
    assert daemon.running() == 1
    response.close()
    connection.close()
    eventually(lambda: daemon.running() == 0, 5, "the streamed chat stopping")

    connection = UnixConnection(daemon.socket)
    connection.request("POST", "/v1/chat/completions",
                       json.dumps({"messages": [{"role": "user", "content": LONG_STORY}], "max_tokens": 4000}),
                       {"Content-Type": "application/json"})
    eventually(lambda: daemon.running() == 1, 5, "the whole chat starting")
    connection.close()
    eventually(lambda: daemon.running() == 0, 5, "the whole chat stopping")

    answer = daemon.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})
    assert answer["choices"][0]["message"]["content"]
