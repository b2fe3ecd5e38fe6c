"""/metrics is valid exposition text, its counters grow with what is done, its histograms add up, and it names no one."""
import math
import re
import threading

from glmd_fixture import LONG_STORY, Daemon, UnixConnection, eventually, read_deltas

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? ([0-9.eE+-]+|NaN|[+-]?Inf)")


def parse(text):
    """{(name, sorted labels): value}; fails on whatever Prometheus would refuse."""
    assert text.endswith("\n")
    kinds, helped, samples, family, families = {}, set(), {}, None, []
    for line in text.splitlines():
        if match := re.fullmatch(rf"# HELP ({NAME}) .+", line):
            assert match[1] not in helped, line
            helped.add(match[1])
        elif match := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge|histogram)", line):
            family = match[1]
            assert family not in kinds and family in helped, line
            kinds[family] = match[2]
            families.append(family)
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, raw, value = match[1], match[2] or "", float(match[3])
            labels = LABEL.findall(raw)
            assert LABEL.sub("", raw) == "", line
            assert len(dict(labels)) == len(labels), line
            base = re.sub("_(bucket|sum|count)$", "", name) if kinds.get(family) == "histogram" else name
            assert base == family, f"{line} doesn't belong to {family}"
            assert kinds[family] != "counter" or (name.endswith("_total") and value >= 0), line
            key = (name, tuple(sorted(labels)))
            assert key not in samples, f"{line} twice"
            samples[key] = value
    histograms = 0
    for family in (f for f in families if kinds[f] == "histogram"):
        series = {}
        for (name, labels), value in samples.items():
            if name == family + "_bucket":
                bound = float(dict(labels)["le"].replace("+Inf", "inf"))
                series.setdefault(tuple(l for l in labels if l[0] != "le"), []).append((bound, value))
        for labels, buckets in series.items():
            buckets.sort()
            counts = [count for _, count in buckets]
            assert counts == sorted(counts) and buckets[-1][0] == math.inf, (family, labels)
            assert samples[(family + "_count", labels)] == counts[-1], (family, labels)
            total, low = samples[(family + "_sum", labels)], 0
            least = most = before = 0
            for bound, count in buckets:
                least, most = least + (count - before) * low, most + (count - before) * bound if count > before else most
                low, before = bound, count
            assert least * 0.999 - 1e-6 <= total <= most * 1.001 + 1e-6, (family, labels, least, total, most)
            histograms += 1
    assert histograms >= 15, histograms
    return samples


with Daemon() as daemon:
    def scrape():
        connection = UnixConnection(daemon.socket)
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("content-type") == "text/plain; version=0.0.4; charset=utf-8"
        text = response.read().decode()
        connection.close()
        return text, parse(text)

    def value(samples, name, **labels):
        return samples[(name, tuple(sorted(labels.items())))]

    _, before = scrape()
    assert value(before, "glmd_model_loaded") == 1

    canary = "xylophone-canary-7731"
    ask = {"messages": [{"role": "user", "content": f"Say {canary}."}], "max_tokens": 6, "temperature": 0}
    flex = [daemon.post("/v1/chat/completions", dict(ask, service_tier="flex")) for _ in range(2)]
    response = daemon.post("/v1/responses", {"input": f"Say {canary}.", "max_output_tokens": 5, "temperature": 0,
                                             "metadata": {"canary": canary}})
    assert daemon.request("POST", "/v1/responses", {"input": canary, "temperature": 9})[0] == 400
    assert daemon.request("GET", f"/{canary}")[0] == 404
    assert daemon.request("BREW", "/v1/models")[0] in (400, 405)

    text, after = scrape()
    grown = lambda name, **labels: value(after, name, **labels) - before.get((name, tuple(sorted(labels.items()))), 0)
    tokens = sum(answer["usage"]["completion_tokens"] for answer in flex)
    prompts = sum(answer["usage"]["prompt_tokens"] for answer in flex)
    ended = sum(grown("glmd_generations_total", **{"class": "flex"}, finish=finish) for finish in ("stop", "length"))
    assert ended == 2
    assert grown("glmd_completion_tokens_total", **{"class": "flex"}) == tokens
    assert grown("glmd_prompt_tokens_total", **{"class": "flex"}) == prompts
    assert grown("glmd_cached_prompt_tokens_total", **{"class": "flex"}) == flex[1]["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert grown("glmd_prefix_cache_misses_total", **{"class": "flex"}) == 1
    assert grown("glmd_prefix_cache_hits_total", **{"class": "flex"}) == 1
    assert grown("glmd_completion_tokens_total", **{"class": "default"}) == response["usage"]["output_tokens"]
    for name in ("queue_wait", "prefill", "time_to_first_token"):
        assert grown(f"glmd_{name}_seconds_count", **{"class": "flex"}) == 2, name
        assert grown(f"glmd_{name}_seconds_count", **{"class": "priority"}) == 0, name
    assert grown("glmd_inter_token_seconds_count", **{"class": "flex"}) == tokens - 2
    steps = sum(count for (name, _), count in after.items() if name == "glmd_step_seconds_count")
    assert steps >= tokens, (steps, tokens)
    assert grown("glmd_requests_total", endpoint="POST /v1/chat/completions", status="200") == 2
    assert grown("glmd_requests_total", endpoint="POST /v1/responses", status="400") == 1
    assert grown("glmd_requests_total", endpoint="other", status="404") == 1
    assert grown("glmd_requests_total", endpoint="GET /metrics", status="200") == 1
    assert grown("glmd_storage_seconds_count") >= 3
    assert value(after, "process_resident_memory_bytes") > 50e6
    assert sum(value(after, "glmd_kv_blocks", state=state) for state in ("used", "cached", "free")) == \
        daemon.get("/v1/glm/status")["engine"]["kv_blocks"]
    for leak in (canary, "BREW", "brew", response["id"], "uid", "tenant", "conv_", "resp_"):
        assert leak not in text, leak

    # While something runs it is seen running, and a client that leaves is counted as such.
    connection, stream = daemon.open_stream("/v1/responses", {"input": LONG_STORY, "max_output_tokens": 4000, "service_tier": "priority"})
    read_deltas(stream, 40)
    assert value(scrape()[1], "glmd_running_sequences", **{"class": "priority"}) == 1
    stream.close()
    connection.close()
    eventually(lambda: value(scrape()[1], "glmd_generations_total", **{"class": "priority"}, finish="cancelled") == 1, 5, "the cancel being counted")
    eventually(lambda: scrape()[1].get(("glmd_requests_total", (("endpoint", "POST /v1/responses"), ("status", "499"))), 0) == 1, 5, "status 499")

    # Scrapes beside work stay whole.
    failures = []
    def load():
        for n in range(4):
            daemon.post("/v1/chat/completions", dict(ask, messages=[{"role": "user", "content": f"Count to {n}."}]))
    def scrapes():
        try:
            for _ in range(20):
                scrape()
        except BaseException as failure:
            failures.append(failure)
    threads = [threading.Thread(target=load) for _ in range(3)] + [threading.Thread(target=scrapes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
