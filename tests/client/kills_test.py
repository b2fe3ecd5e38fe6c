"""SIGKILL again and again while several clients talk: no turn that a client was told is stored is lost, no text is another one, and the
database is whole. The number is GLMD_KILLS (script/test --full: 200)."""
import http.client
import json
import os
import random
import sqlite3
import threading
import time

from glmd_fixture import Daemon, UnixConnection, events

KILLS = int(os.environ.get("GLMD_KILLS", "20"))
CLIENTS = 4
TURNS = 10   # of a session: more might not fit into the model's context


class Talker(threading.Thread):
    """Says things until the daemon is gone. `sessions`: what it knows to be stored, turn by turn: what was said, and the answer
    once it was told that this is complete."""

    def __init__(self, daemon, seed, sessions):
        super().__init__()
        self.daemon_, self.random, self.sessions, self.error = daemon, random.Random(seed), sessions, None

    def run(self):
        try:
            while True:
                short = [session for session, turns in self.sessions.items() if len(turns) < TURNS]
                if not short or self.random.random() < 0.1:
                    short = [self.daemon_.post("/v1/conversations", {})["id"]]
                    self.sessions[short[0]] = []
                self.turn(self.random.choice(short))
        except (OSError, http.client.HTTPException, EOFError):
            pass  # killed
        except BaseException as error:
            self.error = error

    def turn(self, session):
        said = f"{self.random.randrange(10**9)}: tell me about {self.random.choice(['tea', '雨', 'bridges'])}."
        connection = UnixConnection(self.daemon_.socket)
        body = {"conversation": session, "input": said, "max_output_tokens": self.random.randrange(1, 40), "stream": True}
        connection.request("POST", "/v1/responses", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        turn = None
        for event in events(response):
            if event["type"] == "response.created":
                turn = [said, None]
                self.sessions[session].append(turn)
            if event["type"] in ("response.completed", "response.incomplete"):
                turn[1] = event["response"]["output"][0]["content"][0]["text"]
        if not turn or turn[1] is None:
            raise EOFError


def check(daemon, sessions):
    """How many turns were looked at, and of how many the kill took the answer."""
    turns = cut = 0
    for session, known in sessions.items():
        texts = [(item["role"], item["content"][0]["text"]) for item in daemon.items(session)]
        at = 0
        for said, answer in known:
            at = texts.index(("user", said), at)   # ValueError: a turn is lost
            role, text = texts[at + 1]
            assert role == "assistant" and (answer is None or text == answer), (said, answer, text)
            turns += 1
            cut += answer is None
    return turns, cut


def main():
    talkers = [dict() for _ in range(CLIENTS)]
    daemon = Daemon()
    key = os.path.join(daemon.folder, "key")
    with open(key, "wb") as file:
        file.write(os.urandom(32))
    config = os.path.join(daemon.folder, "glmd.toml")
    with open(config, "w") as file:
        file.write(f'[storage]\nkey_file = "{key}"\nsnapshot_after_s = 1\n[engine]\ncontext = 1024\n')
    daemon.arguments = ["--config", config]
    chance, checked, began = random.Random(1), [], time.monotonic()
    with daemon:
        database = os.path.join(daemon.folder, "state", "sessions.db")
        for number in range(KILLS):
            threads = [Talker(daemon, number * CLIENTS + n, sessions) for n, sessions in enumerate(talkers)]
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.05, 1.0))
            daemon.kill()
            for thread in threads:
                thread.join()
                if thread.error:
                    raise thread.error
            daemon.start()
            for sessions in talkers:
                for session in list(sessions)[:-3]:   # the older ones at the end
                    if number % 10 and number != KILLS - 1:
                        continue
                    check(daemon, {session: sessions[session]})
                check(daemon, dict(list(sessions.items())[-3:]))
                if sum(len(known) for known in sessions.values()) > 400:   # so that each round stays short
                    checked.append(check(daemon, sessions))
                    sessions.clear()
        checked += [check(daemon, sessions) for sessions in talkers]
        status = daemon.get("/v1/glm/status")["sessions"]
        assert status["damaged_files"] == [], status
        daemon.stop()
        with sqlite3.connect(database) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    turns, cut = (sum(numbers) for numbers in zip(*checked))
    print(f"{KILLS} kills, {turns} turns checked, {cut} of them cut off in the answer, none lost, in {time.monotonic() - began:.0f} s")


main()
