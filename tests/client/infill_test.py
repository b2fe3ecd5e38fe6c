"""Several blanks of one text over the socket and through `glm infill`, on the golden data's tiny GLM."""
import json
import os
import shutil
import subprocess
import tempfile

from glmd_fixture import Daemon, needed

golden, glm = needed("GLMD_GOLDEN"), needed("GLM_PROGRAM")
work = tempfile.mkdtemp(prefix="glmd-test-infill.")
model = os.path.join(work, "tiny-glm.gguf")
subprocess.run([glm, "model", "convert", os.path.join(golden, "glm", "hf"), "-o", model, "--type", "f16"], check=True, capture_output=True)

TEXT = "The [MASK] boils [sMASK] and then [gMASK]"
PARTS = ["The ", " boils ", " and then ", ""]
GREEDY = {"text": TEXT, "max_tokens": 5, "temperature": 0}


def infill(daemon, **more):
    return daemon.post("/v1/glm/infill", dict(GREEDY, **more))


def refused(daemon, code, **more):
    status, body = daemon.request("POST", "/v1/glm/infill", dict(GREEDY, **more))
    assert status == 400 and body["error"]["code"] == code, (status, body)
    return body["error"]


daemon = Daemon(model=model)
daemon.cache = os.path.join(work, "cache")
try:
    with daemon:
        one = infill(daemon)
        assert one["object"] == "glm.infill" and one["model"] == "tiny-glm", one
        blanks = one["blanks"]
        assert [b["mask"] for b in blanks] == ["[MASK]", "[sMASK]", "[gMASK]"] and [b["index"] for b in blanks] == [0, 1, 2], blanks
        assert all(b["finish_reason"] in ("stop", "length") for b in blanks), blanks
        assert one["text"] == PARTS[0] + "".join(b["text"] + part for b, part in zip(blanks, PARTS[1:])), one
        again = infill(daemon)
        assert [again[k] for k in ("text", "blanks", "usage")] == [one[k] for k in ("text", "blanks", "usage")], (one, again)
        # Random weights don't end: each answer has 5 tokens, of which 4 and a start token are in the next blank's prompt.
        assert all(b["finish_reason"] == "length" for b in blanks), blanks
        first = infill(daemon, text=TEXT.replace("[sMASK]", "").replace("[gMASK]", ""))
        assert first["usage"]["completion_tokens"] == 5 and one["usage"]["completion_tokens"] == 15, (first, one)
        short = infill(daemon, max_tokens=1)
        assert one["usage"]["prompt_tokens"] - short["usage"]["prompt_tokens"] == 3 * (5 - 1), (one, short)
        assert infill(daemon, temperature=1, seed=7)["blanks"] == infill(daemon, temperature=1, seed=7)["blanks"]

        # A stream says the same.
        connection, response = daemon.open_stream("/v1/glm/infill", GREEDY)
        events = [json.loads(line[6:]) for line in response.read().decode().splitlines() if line.startswith("data: ")]
        connection.close()
        assert events[0]["type"] == "glm.infill.created" and events[-1]["type"] == "glm.infill.completed", events
        assert [e["sequence_number"] for e in events] == list(range(len(events))), events
        assert [events[-1]["infill"][k] for k in ("text", "blanks", "usage")] == [one[k] for k in ("text", "blanks", "usage")], events[-1]
        deltas = ["", "", ""]
        order = []
        for event in events[1:-1]:
            assert event["type"] == "glm.infill.delta", event
            deltas[event["blank"]] += event["delta"]
            order.append(event["blank"])
        assert deltas == [b["text"] for b in blanks] and order == sorted(order), (deltas, blanks)

        # One's own mark: "[MASK]" and "<|endofpiece|>" are text then and always.
        own = infill(daemon, text="[MASK] means ___ <|endofpiece|>", mask="___")
        assert len(own["blanks"]) == 1 and own["blanks"][0]["mask"] == "[MASK]", own
        assert own["text"] == "[MASK] means " + own["blanks"][0]["text"] + " <|endofpiece|>", own

        assert "[gMASK]" in refused(daemon, "invalid_value", text="no blank")["message"]
        refused(daemon, "invalid_value", mask="")
        refused(daemon, "missing_required_parameter", text=None)
        refused(daemon, "unknown_parameter", blanks=3)
        assert refused(daemon, "context_length_exceeded", text="word " * 400 + "[MASK]")["param"] == "text"
        # What the context leaves is shared out.
        full = infill(daemon, max_tokens=1000)
        assert 100 < full["usage"]["completion_tokens"] < 160, full["usage"]

        # The command.
        def run(*arguments, stdin=None):
            return subprocess.run([glm, "infill", "--socket", daemon.socket, *arguments], input=stdin, capture_output=True, text=True,
                                  stdin=subprocess.DEVNULL if stdin is None else None)

        said = run("--max-tokens", "5", "--temperature", "0", TEXT)
        assert said.returncode == 0 and said.stdout == one["text"] + "\n", said
        said = run("--max-tokens", "5", "--temperature", "0", "--json", stdin=TEXT + "\n")
        assert said.returncode == 0 and json.loads(said.stdout)["blanks"] == blanks, said
        said = run("--mask", "___", "--json", "[MASK] is ___")
        assert said.returncode == 0 and len(json.loads(said.stdout)["blanks"]) == 1, said
        assert run("no blank").returncode == 1 and run().returncode == 2
        assert run("word " * 400 + "[MASK]").returncode == 6
        assert daemon.running() == 0
finally:
    shutil.rmtree(work, ignore_errors=True)
