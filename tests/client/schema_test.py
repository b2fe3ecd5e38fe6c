"""Answers within JSON schemas: each parses and validates, whatever the temperature.

Three ways: the demo model answers for every schema of tests/data/schemas; answers are drawn at random from the masks alone
(grammar_samples), for those and for random schemas; hostile schemas are refused. GLMD_TEST_FULL: more of all.
"""
import concurrent.futures
import json
import os
import resource
import subprocess
import time

import httpx2
import jsonschema
import openai

import schemas
from glmd_fixture import Daemon, needed

FULL = bool(os.environ.get("GLMD_TEST_FULL"))


def validator(schema):
    return jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)(schema)


def check(name, schema, text):
    """The text is JSON and validates."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise AssertionError(f"{name}: {text!r} is no JSON: {error}")
    problems = list(validator(schema).iter_errors(value))
    assert not problems, f"{name}: {text!r}: {problems[0].message}\n{json.dumps(schema)}"


def samples(named, tokens, count, seed):
    """Answers drawn from the masks; returns how many were checked."""
    program = needed("GRAMMAR_SAMPLES")
    lines = "\n".join(json.dumps(schema) for _, schema in named)
    run = subprocess.run([program, needed("GLMD_DEMO_MODEL"), str(tokens), str(count), str(seed)], input=lines, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    checked = 0
    # Not splitlines(): a text may have U+2028.
    for (name, schema), line in zip(named, run.stdout.rstrip("\n").split("\n"), strict=True):
        answer = json.loads(line)
        if name.startswith("random") and answer.get("message") == "A $ref leads back to itself without anything in between.":
            continue
        assert "samples" in answer, (name, answer, json.dumps(schema))
        for text in answer["samples"]:
            if text is None:
                assert answer["least_tokens"] > tokens, f"{name}: cut off, though {answer['least_tokens']} tokens are enough of {tokens}"
                continue
            check(name, schema, text)
            checked += 1
    return checked


def nested(depth, opening, inner, closing):
    return json.loads(opening * depth + json.dumps(inner) + closing * depth)


# (schema, where, what is said)
REFUSED = [
    ({"not": {}}, "/not", "The keyword 'not' isn't supported."),
    ({"type": "object", "properties": {"a": {"multipleOf": 3}}}, "/properties/a/multipleOf", "'multipleOf' isn't supported"),
    ({"type": "array", "items": {"type": "string", "pattern": "(?<=a)b"}}, "/items/pattern", "looks around"),
    ({"$ref": "http://example.com/schema"}, "/$ref", "Only references within"),
    ({"pattern": "(a{1000}){1000}"}, "/pattern", "too large"),
    ({"pattern": "^" + "(" * 60 + "a" + "{9})" * 60 + "$"}, "/pattern", "too large"),
    ({"pattern": "(a|b)*a(a|b){40}"}, "/pattern", "too complex"),
    ({"pattern": "(" * 5000 + "a" + ")" * 5000}, "/pattern", "nested groups"),
    ({"pattern": "^[\u0100-\u1000]{1,500}$", "maxLength": 1000000}, None, None),
    ({"allOf": [{"anyOf": [{"minLength": i}, {"maxLength": i + 50}]} for i in range(20)]}, "/allOf/9/anyOf", "combinations"),
    ({"properties": {f"p{i}": {"pattern": f"^[a-z]{{{i}}}$"} for i in range(1000)}}, "", "too complex"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "", "leads back to itself"),
    ({"type": "array", "items": {"$ref": "#"}, "minItems": 2}, "", "Nothing that this model can write"),
    ({"type": "array", "items": {"type": "string", "minLength": 1000000}, "minItems": 1000000}, "", "Nothing that this model can write"),
    # Those are no trouble.
    ({"type": "array", "maxItems": 1000000000, "items": {"type": "string", "maxLength": 1000000000}}, None, None),
    ({"$ref": "#/$defs/d0", "$defs": dict({f"d{i}": {"anyOf": [{"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}, "maxItems": m} for m in (1, 2)]}
                                           for i in range(40)}, d40={"type": "null"})}, None, None),
    (nested(20, '{"items":', {"type": "null"}, "}"), None, None),
]

with Daemon() as daemon:
    client = openai.OpenAI(api_key="unused", base_url="http://localhost/v1", max_retries=0,
                           http_client=httpx2.Client(transport=httpx2.HTTPTransport(uds=daemon.socket), timeout=120))
    model = client.models.list().data[0].id

    # The model itself.
    def ask(name, schema, round_):
        answer = client.chat.completions.create(
            model=model, temperature=[1.0, 1.5, 2.0][round_ % 3], seed=round_, max_tokens=160 if FULL else 56, extra_body={"top_p": 1},
            messages=[{"role": "user", "content": "Give me an example of " + name.replace("_", " ") + " as JSON."}],
            response_format={"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}})
        choice = answer.choices[0]
        if choice.finish_reason == "stop":
            check(name, schema, choice.message.content)
        else:
            assert choice.finish_reason == "length", choice
        return choice.finish_reason == "stop"

    written = schemas.written()
    assert len(written) >= 60, len(written)
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, name, schema, i) for i in range(20 if FULL else 1) for name, schema in written.items()]
        whole = sum(future.result() for future in asked)
    print(f"{len(asked)} answers of the model for {len(written)} schemas in {time.monotonic() - began:.0f} s: {whole} whole and valid, "
          f"{len(asked) - whole} cut off because their schema needs more tokens")
    assert whole > 0.8 * len(asked)

    # json_object, and the same in responses: stored, and streamed.
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Describe a cat in JSON."}], max_tokens=40,
                                            temperature=1, response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content), dict), answer
    form = {"format": {"type": "json_schema", "name": "person", "schema": written["person"], "strict": True}}
    answer = client.responses.create(model=model, input="Invent a person.", text=form, max_output_tokens=60)
    check("person", written["person"], answer.output_text)
    assert answer.status == "completed", answer
    assert client.responses.retrieve(answer.id).output_text == answer.output_text
    streamed = "".join(event.delta for event in client.responses.create(model=model, input="Invent a person.", text=form, max_output_tokens=60, stream=True)
                       if event.type == "response.output_text.delta")
    check("person", written["person"], streamed)
    # Cut off, and said so.
    answer = client.responses.create(model=model, input="Invent a person.", text=form, max_output_tokens=3)
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens", answer

    # Several answers to one prompt: each in the form, drawn or not, whole or streamed.
    person = {"type": "json_schema", "json_schema": {"name": "person", "schema": written["person"], "strict": True}}
    several = dict(model=model, messages=[{"role": "user", "content": "Invent a person as JSON."}], n=4, max_tokens=80, seed=5, response_format=person)
    for temperature in (0, 1.5):
        answer = client.chat.completions.create(temperature=temperature, **several)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        texts = [choice.message.content for choice in answer.choices]
        assert all(choice.finish_reason == "stop" for choice in answer.choices), answer
        for text in texts:
            check("person", written["person"], text)
        assert len(set(texts)) == (1 if temperature == 0 else 4), texts
        streamed = {i: "" for i in range(4)}
        for chunk in client.chat.completions.create(temperature=temperature, stream=True, **several):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
        assert list(streamed.values()) == texts, (streamed, texts)

    # Log probabilities: of each token of the text, as it is written.
    events = list(client.responses.create(model=model, input="Invent a person.", text=form, max_output_tokens=60, stream=True,
                                          include=["message.output_text.logprobs"], top_logprobs=2))
    done = next(event for event in events if event.type == "response.output_text.done")
    assert "".join(one.token for one in done.logprobs) == done.text and len(done.logprobs) > 5, done
    assert all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in done.logprobs), done
    check("person", written["person"], done.text)

    # What isn't supported, and what would cost too much.
    for schema, pointer, says in REFUSED:
        began = time.monotonic()
        try:
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}], max_tokens=2,
                                           response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
            assert says is None, (schema, "was accepted")
        except openai.BadRequestError as error:
            assert says is not None and says in error.message, (json.dumps(schema)[:200], error.message)
            assert error.code == "unsupported_schema" and error.param == "response_format.json_schema.schema" + pointer, (error.code, error.param)
        took = time.monotonic() - began
        assert took < 30, (took, json.dumps(schema)[:200])
    for body, param in [({"type": "yaml"}, "response_format.type"), ({"type": "json_schema"}, "response_format.json_schema"),
                        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
                        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "grammar": 1}}, "response_format.json_schema.grammar")]:
        status, error = daemon.request("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "response_format": body})
        assert status == 400 and error["error"]["param"] == param, (body, status, error)
    with open(f"/proc/{daemon.process.pid}/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) >> 10
    print(f"peak memory of the daemon: {peak} MiB")
    assert peak < 2048, peak

# Masks alone: any token that is allowed may be drawn.
began = time.monotonic()
named = list(written.items()) + [(f"random {i}", schema) for i, schema in enumerate(schemas.random_schemas(5000 if FULL else 60, 2026))]
checked = samples(named, 60, 10 if FULL else 2, 1) + samples(named[:200], 400, 3 if FULL else 1, 2)
print(f"{checked} random answers for {len(named)} schemas in {time.monotonic() - began:.0f} s: all valid")
assert checked > len(named)
