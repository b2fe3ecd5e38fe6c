"""Without a model the daemon runs, says 503 no_model with the command that mends it, and keeps sessions."""
from glmd_fixture import Daemon, needed

needed("GLMD_PROGRAM")
with Daemon(model=None) as daemon:
    status, body = daemon.request("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
    assert status == 503 and body["error"]["code"] == "no_model", (status, body)
    assert "glm model import" in body["error"]["message"], body
    session = daemon.post("/v1/conversations", {})["id"]
    assert daemon.get(f"/v1/conversations/{session}")["id"] == session
