"""Two daemons that start at once with one empty cache pack the same model: both answer, and alike."""
import os
import shutil
import tempfile

from glmd_fixture import Daemon

QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0, "max_tokens": 20}

cache = tempfile.mkdtemp(prefix="glmd-test-cache.")
daemons = [Daemon(), Daemon(), Daemon()]
try:
    for daemon in daemons:
        daemon.cache = cache
        daemon.start(wait=False)
    answers = []
    for daemon in daemons:
        daemon.wait_ready()
        answers.append(daemon.post("/v1/chat/completions", QUESTION)["choices"][0]["message"]["content"])
    assert "Paris" in answers[0] and len(set(answers)) == 1, answers
    assert not [name for name in os.listdir(cache) if name.endswith(".part")], os.listdir(cache)
finally:
    for daemon in daemons:
        if daemon.process and daemon.process.poll() is None:
            daemon.stop()
        shutil.rmtree(daemon.folder, ignore_errors=True)
    shutil.rmtree(cache, ignore_errors=True)
