"""Functions that the model calls, through the official SDK: chat completions and responses, streamed and not, over several turns."""
import json

import httpx2
import jsonschema
import openai

from glmd_fixture import Daemon, eventually

WEATHER = {"name": "get_weather", "description": "The weather in a city", "strict": True,
           "parameters": {"type": "object", "additionalProperties": False, "required": ["city", "unit", "days"],
                          "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]},
                                         "days": {"type": "integer", "minimum": 1, "maximum": 7}}}}
CLOCK = {"name": "get_time", "parameters": {"type": "object", "properties": {"zone": {"type": ["string", "null"], "pattern": "^[A-Z]{3}$"}}}}
FUNCTIONS = {tool["name"]: tool for tool in (WEATHER, CLOCK)}
CHAT_TOOLS = [{"type": "function", "function": tool} for tool in FUNCTIONS.values()]
TOOLS = [dict(tool, type="function") for tool in FUNCTIONS.values()]
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the weather in Paris?"}]


def check(name, arguments):
    jsonschema.validate(json.loads(arguments), FUNCTIONS[name]["parameters"], jsonschema.Draft202012Validator)


def refused(call, says, param):
    try:
        call()
    except openai.BadRequestError as error:
        assert says in error.message and error.param == param, (error.message, error.param)
        return
    raise AssertionError(f"not refused: {says}")


with Daemon() as daemon:
    client = openai.OpenAI(api_key="unused", base_url="http://localhost/v1", max_retries=0,
                           http_client=httpx2.Client(transport=httpx2.HTTPTransport(uds=daemon.socket), timeout=120))
    model = client.models.list().data[0].id

    def chat(messages=ASKED, **more):
        more = dict(dict(tools=CHAT_TOOLS, max_tokens=90, temperature=1, seed=1), **more)
        return client.chat.completions.create(model=model, messages=messages, **more)

    # One call that must be; many seeds, hot.
    for seed in range(6):
        several = seed % 2 == 1  # which may be cut off where another might follow
        answer = chat(tool_choice="required", parallel_tool_calls=several, temperature=1.5, top_p=1, seed=seed)
        assert answer.choices[0].finish_reason == "tool_calls" or (several and answer.choices[0].finish_reason == "length"), answer
        assert several or len(answer.choices[0].message.tool_calls) == 1, answer
        assert answer.choices[0].message.content is None
        for call in answer.choices[0].message.tool_calls:
            assert call.id.startswith("call_") and call.type == "function"
            check(call.function.name, call.function.arguments)
    # A certain one, and only one.
    answer = chat(tool_choice={"type": "function", "function": {"name": "get_time"}}, parallel_tool_calls=True)
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["get_time"], answer
    answer = chat(tool_choice="required", parallel_tool_calls=False, temperature=0)
    assert len(answer.choices[0].message.tool_calls) == 1
    whole = answer.choices[0].message.tool_calls[0].function

    # Streamed: the same, in pieces.
    names, arguments, finish, ids = {}, {}, None, {}
    for chunk in chat(tool_choice="required", parallel_tool_calls=False, temperature=0, stream=True):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            assert not choice.delta.content
            for call in choice.delta.tool_calls or []:
                if call.id:
                    ids[call.index], names[call.index], arguments[call.index] = call.id, call.function.name, []
                if call.function.arguments:
                    arguments[call.index].append(call.function.arguments)
    assert finish == "tool_calls" and names == {0: whole.name} and "".join(arguments[0]) == whole.arguments, (finish, names, arguments, whole)
    assert len(arguments[0]) > 2, arguments

    # The model may also just speak; and must, without tools.
    answer = chat(temperature=0)
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")
    for call in answer.choices[0].message.tool_calls or []:
        check(call.function.name, call.function.arguments)
    answer = chat(tool_choice="none", temperature=0, max_tokens=20)
    assert answer.choices[0].message.tool_calls is None and answer.choices[0].message.content

    # The result comes back.
    made = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris", "unit": "celsius", "days": 1}'}}
    turn = ASKED + [{"role": "assistant", "content": None, "tool_calls": [made, dict(made, id="call_2")]},
                    {"role": "tool", "tool_call_id": "call_1", "content": '{"degrees": 21, "sky": "clear"}'},
                    {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": '{"degrees": 22}'}]}]
    answer = chat(turn, tool_choice="none", temperature=0, max_tokens=30)
    assert answer.choices[0].message.content
    assert answer.usage.prompt_tokens > chat(ASKED, tool_choice="none", max_tokens=1).usage.prompt_tokens + 40

    # Responses: in a session.
    conversation = client.conversations.create()
    first = client.responses.create(model=model, conversation=conversation.id, input="What is the weather in Rome?", tools=TOOLS,
                                    tool_choice={"type": "function", "name": "get_weather"}, temperature=1, max_output_tokens=90)
    assert first.status == "completed" and [item.type for item in first.output] == ["function_call"], first
    call = first.output[0]
    check(call.name, call.arguments)
    assert client.responses.retrieve(first.id).output == first.output
    second = client.responses.create(model=model, conversation=conversation.id, tools=TOOLS, tool_choice="none", temperature=0, max_output_tokens=20,
                                     input=[{"type": "function_call_output", "call_id": call.call_id, "output": '{"degrees": 25}'}])
    assert second.output_text and second.usage.input_tokens > first.usage.input_tokens - 200
    items = client.conversations.items.list(conversation.id, order="asc").data
    assert [item.type for item in items] == ["message", "function_call", "function_call_output", "message"], items
    assert items[1].call_id == call.call_id == items[2].call_id and items[1].arguments == call.arguments and items[2].output == '{"degrees": 25}'
    assert client.conversations.items.retrieve(items[1].id, conversation_id=conversation.id).name == "get_weather"
    after = client.conversations.items.list(conversation.id, order="asc", after=items[1].id).data
    assert [item.type for item in after] == ["function_call_output", "message"], after

    # Events.
    seen, arguments = [], ""
    for event in client.responses.create(model=model, previous_response_id=None, input="The time?", tools=TOOLS, tool_choice="required", parallel_tool_calls=False,
                                         stream=True, temperature=0, max_output_tokens=90):
        assert event.sequence_number == len(seen)
        seen.append(event.type)
        if event.type == "response.function_call_arguments.delta":
            arguments += event.delta
        elif event.type == "response.function_call_arguments.done":
            assert event.arguments == arguments
        elif event.type == "response.output_item.done":
            check(event.item.name, event.item.arguments)
            assert event.item.arguments == arguments and event.item.status == "completed"
    calls = [name for name in seen if "function_call" in name or "item" in name]
    assert calls[0] == "response.output_item.added" and calls[-2:] == ["response.function_call_arguments.done", "response.output_item.done"], seen
    assert seen[-1] == "response.completed" and "response.content_part.added" not in seen, seen

    # A client that keeps the history itself.
    answer = client.responses.create(model=model, store=False, tools=TOOLS, tool_choice="none", temperature=0, max_output_tokens=16, input=[
        {"role": "user", "content": "The time?"}, {"type": "function_call", "call_id": "c", "name": "get_time", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "12:30"}])
    assert answer.output_text

    # Several answers to one prompt: each calls for itself.
    answer = chat(tool_choice="required", parallel_tool_calls=False, temperature=1.5, top_p=1, n=4)
    assert all(choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1 for choice in answer.choices), answer
    for choice in answer.choices:
        check(choice.message.tool_calls[0].function.name, choice.message.tool_calls[0].function.arguments)
    assert len({choice.message.tool_calls[0].function.arguments for choice in answer.choices}) > 1, answer
    assert len({choice.message.tool_calls[0].id for choice in answer.choices}) == 4, answer

    # With a schema for the text there is a call or such a text, and both happen.
    mood = {"type": "object", "properties": {"mood": {"enum": ["good", "<tool_call>"]}}, "required": ["mood"], "additionalProperties": False}
    kinds = set()
    for seed in range(40):
        answer = chat(response_format={"type": "json_schema", "json_schema": {"name": "mood", "schema": mood}}, temperature=1.5, top_p=1,
                      seed=seed, parallel_tool_calls=False)
        message = answer.choices[0].message
        assert answer.choices[0].finish_reason == ("tool_calls" if message.tool_calls else "stop"), answer
        kinds.add(bool(message.tool_calls))
        for call in message.tool_calls or []:
            assert message.content is None
            check(call.function.name, call.function.arguments)
        if not message.tool_calls:
            jsonschema.validate(json.loads(message.content), mood)
        if len(kinds) == 2:
            break
    assert kinds == {True, False}, kinds

    # Log probabilities of the text beside functions.
    for stream in (False, True):
        answer = client.responses.create(model=model, input="Say hello.", tools=TOOLS, temperature=0, max_output_tokens=12, stream=stream,
                                         include=["message.output_text.logprobs"], top_logprobs=1)
        if stream:
            events = list(answer)
            sent = [one.token for event in events if event.type == "response.output_text.delta" for one in event.logprobs]
            answer = events[-1].response
            assert "".join(sent) and answer.output_text.startswith("".join(sent)), (sent, answer)
        if answer.output[0].type == "message":
            part = answer.output[0].content[0]
            assert "".join(one.token for one in part.logprobs) == part.text and part.text, part
    answer = client.responses.create(model=model, input="The time?", tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_output_tokens=90,
                                     include=["message.output_text.logprobs"])
    assert [item.type for item in answer.output] == ["function_call"], answer

    # In the background: the call is stored, and its events can be had from memory, from storage and in part.
    begun = client.responses.create(model=model, input="The weather in Oslo?", tools=TOOLS, tool_choice="required", parallel_tool_calls=False, background=True,
                                    temperature=1, max_output_tokens=90, stream=True)
    live = list(begun)
    id = live[0].response.id
    kept = client.responses.retrieve(id)
    assert kept.status == "completed" and [item.type for item in kept.output] == ["function_call"], kept
    check(kept.output[0].name, kept.output[0].arguments)
    assert "".join(event.delta for event in live if event.type == "response.function_call_arguments.delta") == kept.output[0].arguments
    assert [event.type for event in live if "delta" not in event.type] == [
        "response.created", "response.queued", "response.in_progress", "response.output_item.added", "response.function_call_arguments.done",
        "response.output_item.done", "response.completed"], live
    assert [event.sequence_number for event in live] == list(range(len(live)))
    again = list(client.responses.retrieve(id, stream=True))
    for a, b in zip(live[3:-1], again[3:-1], strict=True):
        assert a == b, (a, b)
    assert again[-1].response.output == live[-1].response.output
    assert list(client.responses.retrieve(id, stream=True, starting_after=4)) == again[5:]
    # Followed by the result, in the background as well.
    call = kept.output[0]
    told = client.responses.create(model=model, previous_response_id=id, tools=TOOLS, tool_choice="none", background=True, temperature=0, max_output_tokens=12,
                                   input=[{"type": "function_call_output", "call_id": call.call_id, "output": '{"degrees": 5}'}])
    eventually(lambda: client.responses.retrieve(told.id).status not in ("queued", "in_progress"), 30, "its end")
    assert client.responses.retrieve(told.id).output_text
    # Cut off in the middle of its arguments: kept as far as it came, and never said to be done.
    cut = list(client.responses.create(model=model, input="The weather in Oslo?", tools=TOOLS, tool_choice={"type": "function", "name": "get_weather"}, background=True,
                                       temperature=0, max_output_tokens=12, stream=True))
    assert cut[-1].type == "response.incomplete" and not any(event.type.endswith("arguments.done") for event in cut), cut
    assert list(client.responses.retrieve(cut[0].response.id, stream=True))[3:-1] == cut[3:-1]

    refused(lambda: chat(tool_choice={"type": "function", "function": {"name": "nothing"}}), "names no function", "tool_choice")
    refused(lambda: chat(tools=[{"type": "web_search"}]), "type 'function'", "tools[0].type")
    refused(lambda: chat(tools=CHAT_TOOLS[:1] * 2), "Two tools", "tools[1]")
    refused(lambda: chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}}]),
            "The keyword 'not' isn't supported. (at /properties/a/not)", "tools[0].parameters/properties/a/not")
    refused(lambda: chat(ASKED + [{"role": "tool", "content": "x"}]), "is missing", "messages[2].tool_call_id")
    refused(lambda: chat(ASKED + [{"role": "assistant", "tool_calls": [dict(made, function={"name": "f", "arguments": "{"})]}]), "must be a JSON object",
            "messages[2].tool_calls[0].function.arguments")
    refused(lambda: client.responses.create(model=model, input="x", tools=TOOLS, text={"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}),
            "The keyword 'not' isn't supported. (at /not)", "text.format.schema/not")
    refused(lambda: client.responses.create(model=model, input="x", tools=TOOLS, background=True, include=["message.output_text.logprobs"]), "aren't kept", "include")
