"""The watchdog is fed while a load gets on, and by nothing else: a load that hangs (here its packer is stopped) isn't fed, one that
goes on is again; nor is one that waits for another process's packing, unless that gets on. Streams are told of the load meanwhile."""
import fcntl
import os
import signal
import socket
import tempfile
import threading
import time

from glmd_fixture import Daemon, events, eventually


class Notifications(threading.Thread):
    """A NOTIFY_SOCKET: what came, with its time."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.came = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.start()

    def run(self):
        while True:
            message = self.socket.recv(4096).decode()
            self.came.append((time.monotonic(), message))

    def fed(self, since):
        return sum("WATCHDOG=1" in message for at, message in self.came if at >= since)


def packer_of(pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/children") as children:
                for child in children.read().split():
                    with open(f"/proc/{child}/comm") as comm:
                        if comm.read().startswith("glmd-pack"):
                            return int(child)
        except OSError:
            pass
    return None


def events_of(daemon):
    """All of a stream's."""
    connection, response = daemon.open_stream("/v1/responses", {"input": "Say hello.", "max_output_tokens": 16})
    told = list(events(response))
    connection.close()
    return told


config = tempfile.NamedTemporaryFile("w", suffix=".toml")
config.write("[server]\nload_wait_s = 3\n")
config.flush()
daemon = Daemon(arguments=["--config", config.name])
daemon.cache = os.path.join(daemon.folder, "cache")   # so that it packs
notified = Notifications(os.path.join(daemon.folder, "notify"))
os.environ.update(NOTIFY_SOCKET=os.path.join(daemon.folder, "notify"), WATCHDOG_USEC="600000")   # a look every 0.2 s
os.environ.pop("WATCHDOG_PID", None)
try:
    daemon.start(wait=False)
    packer = None
    while not packer:
        assert daemon.process.poll() is None, daemon.log_text()
        packer = packer_of(daemon.process.pid)
    os.kill(packer, signal.SIGSTOP)
    eventually(lambda: daemon.request("GET", "/health")[0] == 503 if os.path.exists(daemon.socket) else False, 20, "an orderly 503")
    model = daemon.get("/v1/glm/status")["model"]
    assert model["state"] == "loading" and model["loading"]["stage"] in ("opening", "packing"), model
    time.sleep(0.5)       # what it did before it was stopped
    stopped = time.monotonic()
    time.sleep(1.5)
    assert notified.fed(stopped) == 0, notified.came
    assert any("READY=1" in message for _, message in notified.came)   # that doesn't wait for the load

    # A stream is told how far the load is, and what became of it.
    told = events_of(daemon)
    assert len(told) >= 3 and told[-1]["error"]["code"] == "model_loading", told
    for event in told[:-1]:
        assert event["type"] == "glm.model.loading" and event["stage"] == model["loading"]["stage"] and event["model"] == model["id"], event
    assert told[1]["seconds"] > told[0]["seconds"] + 0.5, told

    waiting = []
    thread = threading.Thread(target=lambda: waiting.extend(events_of(daemon)))
    thread.start()
    time.sleep(1.5)
    os.kill(packer, signal.SIGCONT)
    going = time.monotonic()
    thread.join(60)
    assert waiting[0]["type"] == "glm.model.loading" and waiting[-1]["type"] in ("response.completed", "response.incomplete"), waiting
    daemon.wait_ready()
    eventually(lambda: notified.fed(going) > 0, 5, "the watchdog being fed")
    assert "loading" not in daemon.get("/v1/glm/status")["model"]
    idle = time.monotonic()
    eventually(lambda: notified.fed(idle) >= 3, 5, "the watchdog being fed while there is nothing to do")

    # Another process packs the same model, as it seems: its file is locked, and grows.
    daemon.stop()
    packed, = (os.path.join(daemon.cache, name) for name in os.listdir(daemon.cache) if name.endswith(".pack"))
    os.unlink(packed)
    with open(packed + ".part", "wb", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        daemon.start(wait=False)
        eventually(lambda: os.path.exists(daemon.socket), 20, "a socket")
        began = time.monotonic()
        while time.monotonic() < began + 1.5:
            other.write(bytes(4096))
            time.sleep(0.05)
        assert notified.fed(began + 0.5) >= 2, notified.came
        time.sleep(0.5)
        still = time.monotonic()
        time.sleep(1.5)
        assert notified.fed(still) == 0, notified.came
        assert daemon.get("/v1/glm/status")["model"]["state"] == "loading"
        os.unlink(packed + ".part")
    daemon.wait_ready()   # the other gave up, so that it packs on its own
    assert os.path.exists(packed) and not os.path.exists(packed + ".part")
except BaseException:
    print(notified.came, daemon.log_text())
    if packer := packer_of(daemon.process.pid):
        os.kill(packer, signal.SIGCONT)   # or it wouldn't stop
    raise
finally:
    daemon.__exit__(None)
