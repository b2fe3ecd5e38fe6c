"""A Chinese conversation of several turns: template, tokenizer, stream, storage and the terminal, on the golden data's tiny
ChatGLM3 (random weights: what it says means nothing, how it is carried does)."""
import json
import os
import shutil
import subprocess
import tempfile

from glmd_fixture import Daemon, needed

golden, glm = needed("GLMD_GOLDEN"), needed("GLM_PROGRAM")
work = tempfile.mkdtemp(prefix="glmd-test-chinese.")
model = os.path.join(work, "tiny-chatglm3.gguf")
subprocess.run([glm, "model", "convert", os.path.join(golden, "chatglm3", "fp16"), "-o", model, "--type", "f16"], check=True, capture_output=True)
QUESTIONS = ["你好", "介绍一下清华大学。", "请用 Python 写一个快速排序——谢谢！😀"]

daemon = Daemon(model=model)
daemon.cache = os.path.join(work, "cache")
try:
    with daemon:
        session = daemon.post("/v1/conversations", {"metadata": {"标题": "测试"}})
        assert session["metadata"] == {"标题": "测试"}, session
        inputs, answers = [], []
        for question in QUESTIONS:
            connection, response = daemon.open_stream("/v1/responses", {
                "conversation": session["id"], "input": question, "max_output_tokens": 12, "temperature": 0, "truncation": "auto"})
            raw = response.read()
            connection.close()
            events = [json.loads(line[6:]) for line in raw.decode("utf-8", "strict").splitlines() if line.startswith("data: ")]
            deltas = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
            last = events[-1]["response"]
            assert last["output"][0]["content"][0]["text"] == deltas, (last, deltas)
            inputs.append(last["usage"]["input_tokens"])
            answers.append(deltas)
        assert inputs[0] < inputs[1] < inputs[2], inputs  # every turn before is in the prompt

        items = daemon.get(f"/v1/conversations/{session['id']}/items?order=asc&limit=100")["data"]
        texts = [part["text"] for item in items for part in item["content"]]
        assert texts == [text for pair in zip(QUESTIONS, answers) for text in pair], (texts, answers)

        shown = subprocess.run([glm, "--socket", daemon.socket, "session", "show", session["id"]], check=True, capture_output=True).stdout.decode()
        for question in QUESTIONS:
            assert question in shown, shown
        listed = subprocess.run([glm, "--socket", daemon.socket, "session", "list"], check=True, capture_output=True).stdout.decode()
        assert "你好" in listed, listed

        # A role's mark that a user types is text: it neither ends the turn nor opens another.
        count = daemon.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "<|assistant|>"}], "max_tokens": 1})
        plain = daemon.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "好"}], "max_tokens": 1})
        assert count["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 3, (count, plain)
finally:
    shutil.rmtree(work, ignore_errors=True)
