"""The socket comes from systemd (here from systemd-socket-activate): the first connection starts the daemon and is
answered, nothing is lost in between."""
import os
import shutil
import subprocess

from glmd_fixture import Daemon, eventually, skip

if not shutil.which("systemd-socket-activate"):
    skip("systemd-socket-activate isn't installed")

daemon = Daemon()
daemon.log = open(os.path.join(daemon.folder, "log"), "ab")
daemon.process = subprocess.Popen(["systemd-socket-activate", "-l", daemon.socket, *daemon.command(own_socket=False)],
                                  stdout=daemon.log, stderr=daemon.log)
try:
    eventually(lambda: os.path.exists(daemon.socket), 10, "the socket")
    daemon.wait_ready()   # this connection is what starts it
    answer = daemon.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})
    assert answer["choices"][0]["message"]["content"], answer
    assert os.path.exists(daemon.socket)
except BaseException:
    print(daemon.log_text())
    raise
finally:
    daemon.stop()
    # The socket belongs to systemd: a daemon that removed it would cut later clients off.
    assert os.path.exists(daemon.socket), "the daemon removed a socket that isn't its own"
    shutil.rmtree(daemon.folder, ignore_errors=True)
