"""A built glmd on a private socket and state folder, for tests that drive it as a client would.

    with Daemon() as daemon:
        daemon.get("/health")

Environment: GLMD_DEMO_MODEL (without it the test is skipped), GLMD_PROGRAM and GLM_PROGRAM (set by ctest).
"""
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time


def skip(why):
    print(f"skipped: {why}")
    sys.exit(0)


def needed(name):
    value = os.environ.get(name)
    if not value:
        skip(f"{name} isn't set")
    return value


def become(uid):
    """This process is that user from now on."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=120):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)  # with a timeout set, a full backlog is an error
        self.sock.settimeout(self.timeout)


class Daemon:
    """One glmd process; start() again after kill() keeps the state."""

    def __init__(self, model="demo", arguments=(), world=False):
        self.model = needed("GLMD_DEMO_MODEL") if model == "demo" else model
        self.program = needed("GLMD_PROGRAM")
        self.folder = tempfile.mkdtemp(prefix="glmd-test.")
        self.socket = os.path.join(self.folder, "glmd.sock")
        self.arguments = list(arguments)
        self.process = None
        # The packed weights are shared by the tests, so that only the first one packs.
        cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self.cache = os.path.join(cache_home, "glmd", "test-packed")
        os.makedirs(self.cache, exist_ok=True)
        if world:
            os.chmod(self.folder, 0o755)
        self.world = world

    def command(self, own_socket=True):
        command = [self.program]
        if own_socket:
            command += ["--socket", self.socket]
        command += ["--state-dir", os.path.join(self.folder, "state"), "--cache-dir", self.cache]
        if self.model:
            command += ["--model", self.model]
        return command + self.arguments

    def start(self, wait=True):
        self.log = open(os.path.join(self.folder, "log"), "ab")
        self.process = subprocess.Popen(self.command(), stdout=self.log, stderr=self.log)
        if wait:
            self.wait_ready(status=200 if self.model else 503)
        if self.world:
            os.chmod(self.socket, 0o666)
        return self

    def wait_ready(self, seconds=120, status=200):
        deadline = time.monotonic() + seconds
        last = None
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"glmd ended with {self.process.returncode}: {self.log_text()}")
            try:
                last = self.request("GET", "/health")[0]
                if last == status:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"glmd wasn't ready in {seconds} s (last status {last}): {self.log_text()}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def log_text(self):
        with open(os.path.join(self.folder, "log"), errors="replace") as log:
            return log.read()[-4000:]

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            code = self.stop()
            if kind is None:
                assert code == 0, f"glmd ended with {code}: {self.log_text()}"
        if kind is not None and not issubclass(kind, SystemExit):
            print(self.log_text())
        shutil.rmtree(self.folder, ignore_errors=True)

    # Plain HTTP, for what isn't about a particular client.
    def request(self, method, path, body=None, timeout=120):
        connection = UnixConnection(self.socket, timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            raw = response.read()
            try:
                return response.status, json.loads(raw) if raw else None
            except ValueError:
                return response.status, raw.decode(errors="replace")
        finally:
            connection.close()

    def get(self, path):
        status, body = self.request("GET", path)
        assert status == 200, (path, status, body)
        return body

    def post(self, path, body):
        status, answer = self.request("POST", path, body)
        assert status == 200, (path, status, answer)
        return answer

    def items(self, session):
        """All of a session, oldest first."""
        items, after = [], ""
        while True:
            page = self.get(f"/v1/conversations/{session}/items?order=asc&limit=100{after}")
            items += page["data"]
            if not page["has_more"]:
                return items
            after = "&after=" + page["last_id"]

    def resident(self, of="VmRSS"):
        """Bytes of its memory, by a line of /proc/PID/status."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(of + ":")) * 1024

    def running(self):
        """How many generations run now."""
        engine = self.get("/v1/glm/status")["engine"]
        return engine and engine["running"]   # None: no model is loaded

    def open_stream(self, path, body):
        """Sends a request and returns (connection, response) with the body unread."""
        connection = UnixConnection(self.socket)
        connection.request("POST", path, json.dumps(dict(body, stream=True)), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, (response.status, response.read())
        return connection, response


def events(response):
    """The data of a stream's events, as they come."""
    for line in response:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def read_deltas(response, characters):
    """Reads Responses events until that much text has come; returns the text."""
    text = ""
    while len(text) < characters:
        line = response.readline()
        assert line, "the stream ended early"
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if event["type"] == "response.output_text.delta":
                text += event["delta"]
            assert event["type"] not in ("response.completed", "response.failed"), event
    return text


def eventually(check, seconds=10, what="condition"):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return
        time.sleep(0.02)
    raise AssertionError(f"{what} didn't come true in {seconds} s")


LONG_STORY = "Write a very long story about a lighthouse keeper, with many details."
