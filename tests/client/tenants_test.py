"""Apps with sockets of their own and the same uid: sessions and caches apart, quota, ceiling and models as [tenant.NAME] says."""
import os
import shutil

from activated import activated
from glmd_fixture import LONG_STORY, eventually, needed

model = os.path.basename(needed("GLMD_DEMO_MODEL")).removesuffix(".gguf")
SETTINGS = f"""
[engine]
max_sequences = 2
max_queue = 40
[tenant.kiosk]
ceiling = "flex"
max_queue = 1
max_sequences = 1
max_sessions = 3
[tenant.other]
models = ["small"]
[tenant.closed]
allowed = false
[tenant.glmd]
ceiling = "default"
models = ["{model}", "small"]
"""
ASK = "Tell me in one sentence what a lighthouse is for, and who keeps it going at night."
STORY = {"input": LONG_STORY, "temperature": 0, "max_output_tokens": 4000, "background": True}


def chat(daemon, **more):
    return daemon.post("/v1/chat/completions", dict({"messages": [{"role": "user", "content": ASK}], "max_tokens": 4, "temperature": 0}, **more))


with activated(["kiosk", "other", "closed", "glmd", "plain"], SETTINGS) as (daemon, apps):
    kiosk, other, closed, named, plain = (apps[name] for name in ("kiosk", "other", "closed", "glmd", "plain"))

    # What one has, the others are told doesn't exist: the main socket's users too, and an app that is named like it.
    session = kiosk.post("/v1/conversations", {"metadata": {"whose": "kiosk"}})["id"]
    answer = kiosk.post("/v1/responses", {"conversation": session, "input": "Hi", "max_output_tokens": 4})["id"]
    for stranger in (daemon, named, plain):
        for method, path, body in [("GET", f"/v1/conversations/{session}", None), ("GET", f"/v1/conversations/{session}/items", None),
                                   ("DELETE", f"/v1/conversations/{session}", None), ("GET", f"/v1/responses/{answer}", None),
                                   ("GET", f"/v1/responses/{answer}?stream=true", None), ("POST", f"/v1/responses/{answer}/cancel", {}),
                                   ("DELETE", f"/v1/responses/{answer}", None),
                                   ("POST", "/v1/responses", {"conversation": session, "input": "Hi"}),
                                   ("POST", "/v1/responses", {"previous_response_id": answer, "input": "Hi"})]:
            status, said = stranger.request(method, path, body)
            assert status == 404, (method, path, status, said)
        assert stranger.get("/v1/conversations")["data"] == []
    assert [c["id"] for c in kiosk.get("/v1/conversations")["data"]] == [session]

    # The cache of one is none of another's: the same question is computed anew for each, and only the first time.
    for who in (daemon, kiosk, named, plain):
        computed = [usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] for usage in (chat(who)["usage"], chat(who)["usage"])]
        assert computed[0] >= 15 and computed[1] == 1, (who.socket, computed)  # more than the template's beginning, then nothing

    # The ceiling: served, in the highest class that is allowed, and said so.
    for who, asked, served in [(kiosk, "priority", "flex"), (kiosk, "default", "flex"), (kiosk, "auto", "flex"), (named, "priority", "default"),
                               (named, "flex", "flex"), (plain, "priority", "priority"), (daemon, "priority", "priority")]:
        assert chat(who, service_tier=asked)["service_tier"] == served, (who.socket, asked)
        answer = who.post("/v1/responses", {"input": "Hi", "max_output_tokens": 2, "service_tier": asked, "store": False})
        assert answer["service_tier"] == served, answer

    # Models: the loaded one isn't for all; of those that are there each sees its own.
    shutil.copy(needed("GLMD_DEMO_MODEL"), os.path.join(daemon.folder, "state", "models", "small.gguf"))
    shutil.copy(needed("GLMD_DEMO_MODEL"), os.path.join(daemon.folder, "state", "models", "big.gguf"))
    ids = lambda who: sorted(entry["id"] for entry in who.get("/v1/models")["data"])
    assert ids(daemon) == ids(plain) == sorted([model, "small", "big"]), ids(daemon)
    assert ids(named) == sorted([model, "small"]) and ids(other) == ["small"], (ids(named), ids(other))
    assert other.request("GET", "/v1/models/big")[0] == 404
    for body in ({"messages": [{"role": "user", "content": "Hi"}]}, {"messages": [{"role": "user", "content": "Hi"}], "model": model}):
        status, said = other.request("POST", "/v1/chat/completions", body)
        assert status == 404 and said["error"]["code"] == "model_not_found", (status, said)

    # Refused altogether.
    status, said = closed.request("GET", "/v1/models")
    assert status == 403 and said["error"]["code"] == "tenant_refused", (status, said)

    # The quota: one runs, one waits, the third is too much; it is nobody else's.
    first, second = (kiosk.post("/v1/responses", STORY)["id"] for _ in range(2))
    eventually(lambda: kiosk.get(f"/v1/responses/{second}")["status"] == "queued" and daemon.running() == 1, 10, "one running, one waiting")
    status, said = kiosk.request("POST", "/v1/responses", dict(STORY, background=False, store=False))
    assert status == 429 and said["error"]["code"] == "quota_exceeded", (status, said)
    assert chat(daemon)["choices"] and chat(plain)["choices"]
    for id in (second, first):
        assert kiosk.post(f"/v1/responses/{id}/cancel", {})["status"] == "cancelled"

    # And what it may keep.
    status, said = kiosk.request("POST", "/v1/conversations", {})
    assert status == 429 and said["error"]["code"] == "quota_exceeded", (status, said)
    assert daemon.post("/v1/conversations", {}) and plain.post("/v1/conversations", {})
