"""The official openai SDK over the Unix socket: chat, streams, conversations, responses, error classes."""
import httpx2
import openai

from glmd_fixture import Daemon

with Daemon() as daemon:
    client = openai.OpenAI(api_key="unused", base_url="http://localhost/v1",
                           http_client=httpx2.Client(transport=httpx2.HTTPTransport(uds=daemon.socket), timeout=120))
    models = client.models.list().data
    assert len(models) >= 1, models
    model = models[0].id

    # Chat, whole and streamed: with temperature 0 both say the same.
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    whole = client.chat.completions.create(model=model, messages=asked, temperature=0, max_tokens=30)
    text = whole.choices[0].message.content
    assert "Paris" in text, text
    assert whole.usage.prompt_tokens > 5 and whole.usage.completion_tokens > 1
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    streamed = ""
    usage = None
    for chunk in client.chat.completions.create(model=model, messages=asked, temperature=0, max_tokens=30, stream=True,
                                                stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            streamed += choice.delta.content or ""
    assert streamed == text, (streamed, text)
    assert usage and usage.completion_tokens == whole.usage.completion_tokens

    completion = client.completions.create(model=model, prompt="The capital of France is", temperature=0, max_tokens=8)
    assert "Paris" in completion.choices[0].text, completion

    # A durable conversation.
    conversation = client.conversations.create(metadata={"topic": "names"})
    assert conversation.id.startswith("conv_") and conversation.metadata == {"topic": "names"}
    first = client.responses.create(model=model, conversation=conversation.id, temperature=0, max_output_tokens=60,
                                    input="My name is Ada and I live in Paris.")
    assert first.status == "completed" or first.incomplete_details.reason == "max_output_tokens", first
    assert first.output_text
    second = client.responses.create(model=model, conversation=conversation.id, temperature=0, max_output_tokens=40,
                                     input="What is my name?")
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens, (first.usage, second.usage)
    items = client.conversations.items.list(conversation.id, order="asc").data
    assert [item.role for item in items] == ["user", "assistant", "user", "assistant"], items
    assert items[0].content[0].text == "My name is Ada and I live in Paris."
    assert items[3].content[0].text == second.output_text
    changed = client.conversations.update(conversation.id, metadata={"topic": "other"})
    assert changed.metadata == {"topic": "other"}
    assert client.conversations.retrieve(conversation.id).metadata == {"topic": "other"}

    # Chained responses, without a conversation.
    one = client.responses.create(model=model, input="Say the word apple.", temperature=0, max_output_tokens=20)
    two = client.responses.create(model=model, input="Again.", previous_response_id=one.id, temperature=0,
                                  max_output_tokens=20)
    assert two.previous_response_id == one.id
    assert two.usage.input_tokens > one.usage.input_tokens
    assert client.responses.retrieve(one.id).output_text == one.output_text
    client.responses.delete(one.id)

    # store=False leaves nothing behind.
    secret = client.responses.create(model=model, input="Hello", store=False, max_output_tokens=5)
    try:
        client.responses.retrieve(secret.id)
        raise AssertionError("a response that wasn't to be stored was found")
    except openai.NotFoundError:
        pass

    # The streaming helper.
    with client.responses.stream(model=model, input="What is the capital of France?", temperature=0,
                                 max_output_tokens=30, instructions="Answer in one sentence.") as stream:
        kinds, sequence, pieces = [], [], ""
        for event in stream:
            kinds.append(event.type)
            sequence.append(event.sequence_number)
            if event.type == "response.output_text.delta":
                pieces += event.delta
        final = stream.get_final_response()
    assert kinds[0] == "response.created", kinds[:3]
    assert kinds[-1] in ("response.completed", "response.incomplete"), kinds[-1]
    assert sequence == sorted(set(sequence)), sequence
    assert final.output_text == pieces and pieces

    # Error classes.
    def raised(kind, call):
        try:
            call()
        except kind as error:
            return error
        raise AssertionError(f"{kind.__name__} wasn't raised")

    error = raised(openai.BadRequestError, lambda: client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "word " * 30_000}]))
    assert error.code == "context_length_exceeded", error.body
    error = raised(openai.BadRequestError, lambda: client.chat.completions.create(
        model=model, messages=asked, extra_body={"no_such_parameter": 1}))
    assert error.param == "no_such_parameter", error.body
    raised(openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=asked, temperature=99))
    raised(openai.NotFoundError, lambda: client.conversations.retrieve("conv_" + "0" * 48))
    raised(openai.NotFoundError, lambda: client.responses.retrieve("resp_" + "0" * 48))
    raised(openai.NotFoundError, lambda: client.chat.completions.create(model="no-such-model", messages=asked))

    client.conversations.delete(conversation.id)
    raised(openai.NotFoundError, lambda: client.conversations.retrieve(conversation.id))
