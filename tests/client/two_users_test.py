"""Two real users on one socket: what one has, the other is told doesn't exist (404), and lists only her own."""
import json
import os
import subprocess

from glmd_fixture import Daemon, skip

if os.geteuid() != 0:
    skip("becoming two users needs root")


def as_user(daemon, uid, method, path, body=None):
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
               "curl", "-sS", "--max-time", "120", "--unix-socket", daemon.socket, "-X", method, "-w", "\n%{http_code}"]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    result = subprocess.run(command + [f"http://localhost{path}"], capture_output=True)
    assert result.returncode == 0, (result.returncode, result.stderr)
    text, status = result.stdout.decode().rsplit("\n", 1)
    return int(status), json.loads(text) if text else None


with Daemon(world=True) as daemon:
    status, mine = as_user(daemon, 61001, "POST", "/v1/conversations", {"metadata": {"whose": "first"}})
    assert status == 200, mine
    status, answer = as_user(daemon, 61001, "POST", "/v1/responses",
                             {"conversation": mine["id"], "input": "My secret is 1234.", "max_output_tokens": 8})
    assert status == 200, answer

    for method, path, body in [
            ("GET", f"/v1/conversations/{mine['id']}", None),
            ("GET", f"/v1/conversations/{mine['id']}/items", None),
            ("POST", f"/v1/conversations/{mine['id']}", {"metadata": {"whose": "second"}}),
            ("DELETE", f"/v1/conversations/{mine['id']}", None),
            ("GET", f"/v1/responses/{answer['id']}", None),
            ("DELETE", f"/v1/responses/{answer['id']}", None),
            ("POST", "/v1/responses", {"conversation": mine["id"], "input": "Hi", "max_output_tokens": 4}),
            ("POST", "/v1/responses", {"previous_response_id": answer["id"], "input": "Hi", "max_output_tokens": 4})]:
        status, said = as_user(daemon, 61002, method, path, body)
        assert status == 404, (method, path, status, said)
        assert "1234" not in json.dumps(said)

    assert as_user(daemon, 61002, "GET", "/v1/conversations")[1]["data"] == []
    assert [c["id"] for c in as_user(daemon, 61001, "GET", "/v1/conversations")[1]["data"]] == [mine["id"]]
    status, kept = as_user(daemon, 61001, "GET", f"/v1/conversations/{mine['id']}")
    assert status == 200 and kept["metadata"] == {"whose": "first"}, kept

    # Nobody's uid: what a user namespace makes of every stranger. Such a connection gets nothing done.
    result = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-s", "--max-time", "20",
                             "--unix-socket", daemon.socket, "-o", "/dev/null", "-w", "%{http_code}",
                             "http://localhost/v1/conversations"], capture_output=True)
    assert result.stdout.decode() in ("000", "403"), result.stdout
