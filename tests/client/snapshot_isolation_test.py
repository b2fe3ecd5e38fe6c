"""The keys and values of a session at rest are for its owner alone: the very same text, a guessed id and an app of the same user
find nothing of them, before and after their owner has loaded them. Sealed, the file shows neither the canary nor its tokens."""
import glob
import json
import os
import struct
import subprocess
import tempfile

from activated import activated
from glmd_fixture import eventually, needed, skip
from identities import Who, as_identity, contains, result

if os.getuid() != 0:
    skip("only root can be several users")

# Slow enough that a snapshot pays on any machine.
SETTINGS = '[engine]\nprecision = "exact"\nkv_type = "f16"\nthreads = 1\n[server]\nverbose = true\n[storage]\nsnapshot_after_s = 0\n'
owner, same_user, other = Who(0, 61001, ""), Who(1, 61001, "kiosk"), Who(2, 61002, "")
STORY = "".join(f"Lighthouse {n} stands {n * 7 % 90} miles from the harbour. " for n in range(12))
TEXT = f"{owner.prompt} {STORY} Remember {owner.kept} too."


def json_of(answer):
    return json.loads(answer[answer.index(b"{"):])


def cached(answer):
    assert answer.startswith(b"200 "), answer
    return json_of(answer)["usage"]["input_tokens_details"]["cached_tokens"]


def tell(ask, text, **more):
    return ask("POST", "/v1/responses", {"input": text, "max_output_tokens": 4, "temperature": 0, **more})


def begin(ask):
    session = json_of(ask("POST", "/v1/conversations", {}))["id"]
    return session, json_of(tell(ask, TEXT, conversation=session))["id"]


def parts(file):
    """The tokens and the data of a plain snapshot."""
    magic, name, tokens, size = struct.unpack("<8s3Q", file[:32])
    assert magic == b"GLMDKV01" and tokens > 200, (magic, tokens)
    return file[32 + name:32 + name + 4 * tokens], file[-size:]


def windows(tokens, data):
    """What any glimpse of them would have: four tokens in a row, as 32 and as 16 bits, and pieces of keys and values."""
    ids = struct.unpack(f"<{len(tokens) // 4}i", tokens)
    found = {tokens[i:i + 16] for i in range(0, len(tokens) - 15, 4)}
    found |= {struct.pack("<4H", *ids[i:i + 4]) for i in range(len(ids) - 3)}
    pieces = (data[i:i + 32] for i in range(0, len(data) - 31, 1 << 16))
    return found | {piece for piece in pieces if len(set(piece)) > 8}


def at_rest(daemon, as_user):
    """The owner's session and response, when their snapshot is on disk; and what lies beside it there, by name."""
    session, response = as_user(owner, begin)
    eventually(lambda: daemon.get("/v1/glm/status")["snapshots"]["files"] == 1, 20, "the snapshot")
    files = {}
    for path in glob.glob(os.path.join(daemon.folder, "state", "kv", "*")):
        with open(path, "rb") as file:
            files[os.path.basename(path)] = file.read()
    return session, response, files


def snapshot_of(files):
    [snapshot] = (data for name, data in files.items() if name.startswith("kv_"))
    return snapshot


with activated(["kiosk"], SETTINGS, world=True) as (daemon, apps):
    as_user = lambda who, work: result(*as_identity(who, apps[who.app].socket if who.app else daemon.socket, work))
    session, response, files = at_rest(daemon, as_user)
    plain = snapshot_of(files)

    def fish(ask):
        answers = [tell(ask, TEXT, store=False), tell(ask, "What was the word?", conversation=session),
                   tell(ask, "What was the word?", previous_response_id=response), ask("GET", f"/v1/responses/{response}"),
                   ask("GET", f"/v1/conversations/{session}/items"), ask("GET", "/metrics"), ask("GET", "/v1/glm/status")]
        own = json_of(ask("POST", "/v1/conversations", {}))["id"]
        return answers + [tell(ask, TEXT, conversation=own)]

    for loaded in (False, True):   # from disk alone, then from the memory of whoever has loaded it
        assert daemon.stop() == 0
        daemon.start()
        if loaded:
            assert cached(as_user(owner, lambda ask: tell(ask, "What was the word?", conversation=session))) > 200
        for who in (other, same_user):
            before = daemon.get("/v1/glm/status")["snapshots"]["loaded"]
            assert before == int(loaded)
            answers = as_user(who, fish)
            assert cached(answers[0]) == 0, (who.uid, who.app, answers[0])
            assert [answer[:4] for answer in answers[1:5]] == [b"404 "] * 4, answers[1:5]
            assert session.encode() not in answers[5] + answers[6]
            for answer in answers[1:7]:
                assert contains(answer, [owner]) == [], (who.uid, who.app, answer)
            assert cached(answers[7]) > 200   # control: one's own is found, here that of answers[0]
            assert daemon.get("/v1/glm/status")["snapshots"]["loaded"] == before, (who.uid, who.app)
    with open(os.path.join(daemon.folder, "log"), "rb") as log:
        logged = log.read()
    assert b"POST /v1/responses" in logged and contains(logged, [owner]) == [], "the log"

secrets = windows(*parts(plain))
assert len(secrets) > 300 and sum(secret in plain for secret in secrets) > 200   # control: a plain file shows them

with tempfile.NamedTemporaryFile("w") as key:
    key.write(subprocess.run([needed("GLM_PROGRAM"), "admin", "key"], capture_output=True, text=True, check=True).stdout)
    key.flush()
    with activated([], SETTINGS + f'key_file = "{key.name}"\n', world=True) as (daemon, _):
        _, _, files = at_rest(daemon, lambda who, work: result(*as_identity(who, daemon.socket, work)))
assert len(snapshot_of(files)) > len(plain)   # the same, sealed
for name, data in files.items():
    assert contains(data, [owner]) == [], name
    found = [secret for secret in secrets if secret in data]
    assert not found, (name, found[:3])
