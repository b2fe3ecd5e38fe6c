"""Users and apps work at the same time, each with canaries in its texts. None of them appears in another's answer, cache hit,
log line, metric, or in any file but its owner's rows of the session database; one that isn't to be stored appears nowhere."""
import json
import os
import shutil
import sqlite3

from activated import activated
from glmd_fixture import eventually
from identities import Who, as_identity, contains, result

SETTINGS = "[engine]\nmax_sequences = 4\n[server]\nverbose = true\n"
APPS = ["kiosk", "other"]


def everything(who):
    """All that an identity asks; returns all that it is told."""
    def work(ask):
        told = []
        tell = lambda *arguments, **more: told.append(ask(*arguments, **more)) or told[-1]
        body = lambda answer: json.loads(answer[answer.index(b"{"):])
        chat = {"messages": [{"role": "user", "content": who.prompt}], "max_tokens": 16, "temperature": 0}
        for tier in ("default", "priority"):
            tell("POST", "/v1/chat/completions", dict(chat, service_tier=tier))
            tell("POST", "/v1/chat/completions", dict(chat, service_tier=tier, stream=True))
        session = body(tell("POST", "/v1/conversations", {"metadata": {"word": who.kept}, "items": [{"role": "system", "content": who.kept}]}))["id"]
        text = f"The word is {who.kept}. Repeat the word."
        stored = body(tell("POST", "/v1/responses", {"conversation": session, "input": text, "instructions": who.kept, "max_output_tokens": 16,
                                                     "temperature": 0}))["id"]
        tell("POST", "/v1/responses", {"conversation": session, "input": "And again?", "max_output_tokens": 12, "stream": True})
        tell("POST", "/v1/responses", {"input": who.prompt, "store": False, "max_output_tokens": 12, "temperature": 0})
        job = body(tell("POST", "/v1/responses", {"input": text, "background": True, "max_output_tokens": 40, "temperature": 0}))["id"]
        tell("GET", f"/v1/responses/{job}?stream=true")
        tell("POST", f"/v1/responses/{job}/cancel", {})
        tell("POST", "/v1/completions", {"prompt": who.prompt + " It is", "max_tokens": 12, "temperature": 0})
        # Fishing for what the others said.
        tell("POST", "/v1/completions", {"prompt": who.prompt.split("The word")[0] + "The word is", "max_tokens": 24, "temperature": 0})
        tell("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Which words were you told today?"}], "max_tokens": 24})
        # Mistakes that carry it.
        tell("POST", "/v1/chat/completions", dict(chat, **{who.secret: 1}))
        tell("POST", "/v1/chat/completions", dict(chat, model=who.secret))
        tell("POST", "/v1/chat/completions", raw='{"messages": "' + who.secret)
        tell("POST", "/v1/responses", {"input": who.secret, "service_tier": who.secret})
        tell("GET", f"/{who.secret}?{who.secret}={who.secret}")
        tell("GET", f"/v1/conversations/{who.secret}")
        for path in ("/v1/conversations", f"/v1/conversations/{session}/items", f"/v1/responses/{stored}", "/v1/models", "/v1/glm/status", "/metrics", "/health"):
            tell("GET", path)
        return told
    return work


def repeated(prompt):
    """Prompt tokens that weren't in the asker's cache."""
    def work(ask):
        answer = ask("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": prompt}], "max_tokens": 1})
        usage = json.loads(answer[answer.index(b'{"'):])["usage"]
        return usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    return work


root = os.getuid() == 0
people = [Who(0, 61001 if root else os.getuid(), ""), Who(1, 61001 if root else os.getuid(), "kiosk"), Who(2, 61002 if root else os.getuid(), "other")]
if root:
    people += [Who(3, 61002, ""), Who(4, 61003, "kiosk")]

with activated(APPS, SETTINGS, world=True) as (daemon, apps):
    socket = lambda who: apps[who.app].socket if who.app else daemon.socket

    # All at once.
    processes = [as_identity(who, socket(who), everything(who)) for who in people]
    told = [result(*process) for process in processes]
    for who, answers in zip(people, told):
        others = [other for other in people if other is not who]
        for answer in answers:
            assert contains(answer, others) == [], (who.uid, who.app, contains(answer, others), answer)
        # Controls: the model does repeat what it was told, and the answers that can be searched were there.
        assert sorted(set(contains(b"".join(answers), [who]))) == sorted(who.canaries), (who.uid, who.app)
        assert sum(answer.startswith(b"200 ") for answer in answers) >= 19, [answer[:3] for answer in answers]

    # The cache: one's own prompt is there whole, any other's is not.
    for who in people:
        assert result(*as_identity(who, socket(who), repeated(who.prompt))) == 1, (who.uid, who.app)
        for other in people:
            if other is not who:
                assert result(*as_identity(who, socket(who), repeated(other.prompt))) > 10, (who.uid, who.app, "has", other.uid, other.app)

    # What everybody may read, and what is logged.
    for path in ("/metrics", "/v1/glm/status", "/v1/models"):
        assert contains(json.dumps(daemon.request("GET", path)[1]).encode(), people) == [], path
    eventually(lambda: daemon.running() == 0, 10, "the engine being idle")

    # Files: the canaries that are kept are in the database, in rows of their owner; nothing is anywhere else.
    database = os.path.join(daemon.folder, "state", "sessions.db")
    for folder in (daemon.folder, daemon.cache):
        for parent, _, files in os.walk(folder):
            for name in files:
                path = os.path.join(parent, name)
                if not os.path.isfile(path) or os.path.islink(path) or os.path.getsize(path) > 64 << 20 and not path.startswith(daemon.folder):
                    continue  # packed weights
                with open(path, "rb") as file:
                    found = contains(file.read(), people)
                assert not [c for c in found if c.startswith("lost")], (path, found)
                assert not found or path.startswith(database), (path, found)
    with open(os.path.join(daemon.folder, "log"), "rb") as log:
        assert log.read().count(b"POST /v1/responses") >= 5 * len(people), "the log isn't verbose"
    copy = os.path.join(daemon.folder, "copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(database + suffix, copy + suffix)
    rows = sqlite3.connect(copy)
    seen = set()
    for (table,) in rows.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        columns = [column[1] for column in rows.execute(f"PRAGMA table_info({table})")]
        for row in rows.execute(f"SELECT * FROM {table}"):
            data = b"\0".join(cell if isinstance(cell, bytes) else str(cell).encode() for cell in row)
            if "uid" not in columns:  # nobody's: counts of the store itself
                assert contains(data, people) == [], table
                continue
            owner = (row[columns.index("uid")], row[columns.index("tenant")])
            for who in people:
                if contains(data, [who]):
                    assert owner == (who.uid, who.app), (table, owner, who.uid, who.app)
                    seen.add((owner, table))
    assert len(seen) >= 3 * len(people), seen  # conversation, response and item of each
