"""A daemon with several sockets from systemd (here from systemd-socket-activate): one for users, one for each app."""
import contextlib
import os
import shutil
import subprocess

from glmd_fixture import Daemon, eventually, skip


@contextlib.contextmanager
def activated(apps, settings="", arguments=(), world=False):
    """Yields (daemon, {name: daemon's view through that app's socket}); their uid is the same."""
    if not shutil.which("systemd-socket-activate"):
        skip("systemd-socket-activate isn't installed")
    daemon = Daemon(world=world)
    config = os.path.join(daemon.folder, "glmd.toml")
    with open(config, "w") as file:
        file.write(settings)
    daemon.arguments = ["--config", config, *arguments]
    paths = {app: os.path.join(daemon.folder, f"app-{app}.sock") for app in apps}
    listen = [word for path in [daemon.socket, *paths.values()] for word in ("-l", path)]
    names = ":".join(["glmd", *(f"app-{app}" for app in apps)])

    def start():
        sockets = [daemon.socket, *paths.values()]
        for path in filter(os.path.exists, sockets):
            os.unlink(path)
        with open(os.path.join(daemon.folder, "log"), "ab") as daemon.log:
            daemon.process = subprocess.Popen(["systemd-socket-activate", *listen, f"--fdname={names}", *daemon.command(own_socket=False)],
                                              stdout=daemon.log, stderr=daemon.log)
        eventually(lambda: all(os.path.exists(path) for path in sockets), 10, "the sockets")
        for path in sockets:
            os.chmod(path, 0o666 if world else 0o600)
        daemon.wait_ready()

    try:
        daemon.start = start   # again after stop() keeps the state
        start()
        views = {}
        for app, path in paths.items():
            views[app] = Daemon.__new__(Daemon)
            views[app].__dict__.update(daemon.__dict__, socket=path)
        yield daemon, views
        assert daemon.stop() == 0
    except BaseException:
        print(daemon.log_text())
        raise
    finally:
        if daemon.process.poll() is None:
            daemon.stop()
        shutil.rmtree(daemon.folder, ignore_errors=True)
