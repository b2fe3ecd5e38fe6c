"""Responses that go on without their client: status, streams taken up again, cancel, SIGKILL; also by the openai SDK."""
import json
import time

import httpx2
import openai

from glmd_fixture import LONG_STORY, Daemon, UnixConnection, eventually

STORY = {"input": LONG_STORY, "temperature": 0, "max_output_tokens": 120, "background": True}


def stream(daemon, path, most=None):
    """The events of a GET stream; after `most` of them the connection is cut."""
    connection = UnixConnection(daemon.socket)
    connection.request("GET", path)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    events = []
    for line in response:
        if line.startswith(b"data: "):
            events.append(json.loads(line[6:]))
            if len(events) == most:
                break
    response.close()
    connection.close()
    return events


def final(daemon, id, seconds=60):
    eventually(lambda: daemon.get(f"/v1/responses/{id}")["status"] not in ("queued", "in_progress"), seconds, "the end of it")
    return daemon.get(f"/v1/responses/{id}")


def check(events, first=0):
    assert [e["sequence_number"] for e in events] == list(range(first, first + len(events))), [e["sequence_number"] for e in events]


with Daemon(arguments=["--max-sequences", "1"]) as daemon:
    # Its client leaves at once; it goes on, beside others who look on, begin late, are cut off and come again.
    begun = daemon.post("/v1/responses", dict(STORY, metadata={"a": "b"}))
    assert begun["status"] in ("queued", "in_progress") and begun["background"] is True and begun["output"] == [], begun
    path = f"/v1/responses/{begun['id']}"
    cut = stream(daemon, path + "?stream=true", 20)
    check(cut)
    assert [e["type"] for e in cut[:6]] == ["response.created", "response.queued", "response.in_progress", "response.output_item.added",
                                            "response.content_part.added", "response.output_text.delta"], cut
    assert cut[1]["response"]["status"] == "queued" and cut[2]["response"]["status"] == "in_progress"
    assert daemon.get(path)["status"] == "in_progress"
    assert daemon.request("DELETE", path)[0] == 409
    rest = stream(daemon, path + f"?stream=true&starting_after={cut[-1]['sequence_number']}")
    check(rest, 20)
    assert rest[-1]["type"] in ("response.completed", "response.incomplete"), rest[-1]
    done = daemon.get(path)
    assert done["status"] == rest[-1]["response"]["status"] and done["background"] is True and done["metadata"] == {"a": "b"}, done
    text = done["output"][0]["content"][0]["text"]
    live = cut + rest
    assert "".join(e["delta"] for e in live if e["type"] == "response.output_text.delta") == text
    assert live[-1]["response"]["output"] == done["output"]

    # From storage every event is the same again, from wherever one begins; also after a restart.
    for restarted in (False, True):
        again = stream(daemon, path + "?stream=true")
        assert len(again) == len(live)
        for a, b in zip(live, again):
            assert {k: v for k, v in a.items() if k != "response"} == {k: v for k, v in b.items() if k != "response"}, (a, b)
        for after in (0, 4, 50, len(live) - 2):
            assert stream(daemon, f"{path}?stream=true&starting_after={after}") == again[after + 1:]
        assert stream(daemon, f"{path}?stream=true&starting_after={len(live) - 1}") == []
        if not restarted:
            daemon.stop()
            daemon.start()

    # The same words as with a client that waits.
    waited = daemon.post("/v1/responses", dict(STORY, background=False))
    assert waited["output"][0]["content"][0]["text"] == text
    status, body = daemon.request("GET", f"/v1/responses/{waited['id']}?stream=true")
    assert status == 400 and body["error"]["param"] == "stream", body
    assert daemon.request("POST", f"/v1/responses/{waited['id']}/cancel", {})[0] == 400

    # One runs, one waits; both are cancelled; what there was is kept, and the conversation is free again.
    session = daemon.post("/v1/conversations", {})["id"]
    long = dict(STORY, max_output_tokens=4000)
    first = daemon.post("/v1/responses", dict(long, conversation=session))
    eventually(lambda: len(json.dumps(daemon.get(f"/v1/responses/{first['id']}")["output"])) > 400, 20, "some text")
    second = daemon.post("/v1/responses", long)
    eventually(lambda: daemon.get(f"/v1/responses/{second['id']}").get("glm") == {"queue_position": 1}, 5, "its place in the queue")
    assert daemon.get(f"/v1/responses/{second['id']}")["status"] == "queued"
    assert daemon.request("POST", "/v1/responses", dict(STORY, conversation=session))[0] == 409
    for id in (second["id"], first["id"]):
        began = time.monotonic()
        cancelled = daemon.post(f"/v1/responses/{id}/cancel", {})
        assert cancelled["status"] == "cancelled" and time.monotonic() - began < 5, cancelled
        assert daemon.post(f"/v1/responses/{id}/cancel", {})["status"] == "cancelled"  # again: no change
    assert daemon.running() == 0
    kept = daemon.get(f"/v1/responses/{first['id']}")
    assert kept["incomplete_details"] is None and len(kept["output"][0]["content"][0]["text"]) > 20, kept
    ended = stream(daemon, f"/v1/responses/{first['id']}?stream=true")
    check(ended)
    assert ended[-1]["response"]["status"] == "cancelled", ended[-1]
    assert daemon.post("/v1/responses", {"input": "Hi", "conversation": session, "max_output_tokens": 4})["output"]

    # What is refused.
    for body, param in [(dict(STORY, store=False), "background"), (dict(STORY, background="yes"), "background")]:
        status, said = daemon.request("POST", "/v1/responses", body)
        assert status == 400 and said["error"]["param"] == param, said
    for query in ("stream=true&starting_after=x", "stream=true&starting_after=-1", "starting_after=3"):
        assert daemon.request("GET", f"{path}?{query}")[0] == 400, query
    assert daemon.request("GET", "/v1/responses/resp_none?stream=true")[0] == 404
    assert daemon.request("POST", "/v1/responses/resp_none/cancel", {})[0] == 404

    # The SDK.
    client = openai.OpenAI(api_key="unused", base_url="http://localhost/v1",
                           http_client=httpx2.Client(transport=httpx2.HTTPTransport(uds=daemon.socket), timeout=120))
    seen = []
    with client.responses.create(model="default", stream=True, **STORY) as events:
        for event in events:
            seen.append(event)
            if len(seen) == 15:
                break
    id = seen[0].response.id
    for event in client.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number):
        seen.append(event)
    assert "".join(e.delta for e in seen if e.type == "response.output_text.delta") == text
    assert [e.sequence_number for e in seen] == list(range(len(seen)))
    assert client.responses.retrieve(id).output_text == text
    id = client.responses.create(model="default", **long).id
    assert client.responses.cancel(id).status == "cancelled"

    # A power cut: what was on disk stays, and whoever followed is told how it ended, whatever number comes next.
    lost = daemon.post("/v1/responses", dict(STORY, max_output_tokens=4000))
    eventually(lambda: len(json.dumps(daemon.get(f"/v1/responses/{lost['id']}")["output"])) > 1500, 60, "some text")
    time.sleep(0.6)
    seen = stream(daemon, f"/v1/responses/{lost['id']}?stream=true", 150)
    daemon.kill()
    daemon.start()
    found = daemon.get(f"/v1/responses/{lost['id']}")
    assert found["status"] == "incomplete" and found["incomplete_details"]["reason"] == "interrupted", found
    kept = found["output"][0]["content"][0]["text"]
    sent = "".join(e["delta"] for e in seen if e["type"] == "response.output_text.delta")
    assert kept and (kept.startswith(sent) or sent.startswith(kept)), (kept, sent)
    for after in (10, 100000):
        events = stream(daemon, f"/v1/responses/{lost['id']}?stream=true&starting_after={after}")
        check(events, after + 1)
        assert events[-1]["type"] == "response.incomplete", events

    # A stop in the middle: stored as far as it came, and the daemon doesn't wait for its end.
    stopped = daemon.post("/v1/responses", dict(STORY, max_output_tokens=4000))
    eventually(lambda: daemon.running() == 1, 5, "it running")
    began = time.monotonic()
    assert daemon.stop() == 0 and time.monotonic() - began < 9
    daemon.start()
    found = daemon.get(f"/v1/responses/{stopped['id']}")
    assert found["status"] == "incomplete" and found["incomplete_details"]["reason"] == "interrupted", found
