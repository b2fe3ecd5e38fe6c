"""The shipped configuration, with every commented key switched on, is one that the daemon takes: it names no key that
doesn't exist, and its defaults are valid."""
import os
import re
import sys

from glmd_fixture import Daemon

text = re.sub(r"^# (\w+ = )", r"\1", open(sys.argv[1]).read(), flags=re.M)
assert len(re.findall(r"^\w+ = ", text, re.M)) > 15, text
daemon = Daemon(model=None)
path = os.path.join(daemon.folder, "glmd.toml")
with open(path, "w") as file:
    file.write(text)
daemon.arguments = ["--config", path]
with daemon:
    assert daemon.get("/v1/glm/status")["version"]
