"""openai 3.x as its users write it: HTTP, SSE, WebSocket; responses, chat, conversations, models, errors."""

import asyncio

import openai
import pytest
from openai.types.responses import ResponseTextDeltaEvent

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
"""The openai package calls websockets in a way that websockets 17 has deprecated."""

STORY = "My name is Ada and I live in Oslo. I like tea and rain, and my dog is called Rex. Please remember all of it."
GREEDY = {"model": "default", "temperature": 0.0}
TERMINAL = {"response.completed", "response.incomplete", "response.failed"}


@pytest.fixture
def client(server_url):
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="-", max_retries=0) as client:
        yield client


def joined(events):
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


class TestResponses:
    def test_a_response_and_the_next_from_its_id(self, client):
        first = client.responses.create(input=STORY, **GREEDY)
        second = client.responses.create(input="What is my name?", previous_response_id=first.id, **GREEDY)
        assert (first.status, second.status) == ("completed", "completed")
        assert "Ada" in second.output_text
        assert second.previous_response_id == first.id
        history = first.usage.input_tokens + first.usage.output_tokens - 1
        assert second.usage.input_tokens_details.cached_tokens == history
        assert second.chatpager["cache"]["device_tokens"] == second.usage.input_tokens_details.cached_tokens
        assert client.responses.retrieve(second.id) == second

    def test_a_stream_is_the_answer_event_by_event(self, client):
        whole = client.responses.create(input=STORY, **GREEDY)
        events = list(client.responses.create(input=STORY, stream=True, **GREEDY))
        assert [e.sequence_number for e in events] == list(range(len(events)))
        assert [e.type for e in events[:2]] == ["response.created", "response.in_progress"]
        assert [e.type for e in events if e.type in TERMINAL] == ["response.completed"] == [events[-1].type]
        assert joined(events) == events[-1].response.output_text == whole.output_text
        assert type(events[0]).__name__ == "ResponseCreatedEvent"
        assert any(isinstance(e, ResponseTextDeltaEvent) for e in events)

    def test_the_stream_helper_folds_it(self, client):
        with client.responses.stream(input=STORY, **GREEDY) as stream:
            text = joined(stream)
            assert stream.get_final_response().output_text == text != ""

    def test_a_limit_is_kept_and_told(self, client):
        cut = client.responses.create(input="What is chatpager?", max_output_tokens=3, **GREEDY)
        assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert cut.usage.output_tokens == 3

    def test_deleted_is_gone(self, client):
        made = client.responses.create(input="Hello", **GREEDY)
        client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(made.id)

    def test_what_is_not_stored_cannot_be_found(self, client):
        made = client.responses.create(input="Hello", store=False, **GREEDY)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(made.id)


def turn(connection, **wanted):
    connection.send({"type": "response.create", **GREEDY, **wanted})
    return until_the_end(connection)


def until_the_end(connection):
    events = []
    for event in connection:
        events.append(event)
        if event.type in TERMINAL or event.type == "error":
            return events
    raise AssertionError("the socket ended before the answer")


class TestWebSocket:
    def test_turns_on_one_socket_go_on_with_each_other(self, client):
        with client.responses.connect() as connection:
            first = turn(connection, input=STORY)
            second = turn(connection, input="Where do I live?", previous_response_id=first[-1].response.id)
        for events in (first, second):
            assert [e.sequence_number for e in events] == list(range(len(events)))
            assert all(type(e).__module__.startswith("openai.types.responses") for e in events)
            assert joined(events) == events[-1].response.output_text != ""
        assert second[-1].response.usage.input_tokens_details.cached_tokens > 0

    def test_a_refusal_leaves_the_socket_open(self, client):
        with client.responses.connect() as connection:
            [refused] = turn(connection, input="Hello", previous_response_id="resp_never")
            assert (refused.status, refused.error.code) == (404, "previous_response_not_found")
            assert turn(connection, input="Hello")[-1].type == "response.completed"

    def test_cancel_keeps_what_was_said(self, client):
        with client.responses.connect() as connection:
            connection.send({"type": "response.create", "input": STORY, "ignore_eos": True, **GREEDY})
            events = []
            for event in connection:
                events.append(event)
                if event.type == "response.output_text.delta" and len(joined(events)) < 20:
                    cancel = {"type": "response.cancel", "response_id": events[0].response.id}
                elif event.type == "response.output_text.delta" and cancel:
                    connection.send(cancel)
                    cancel = None
                elif event.type in TERMINAL:
                    break
            last = events[-1]
            assert (last.type, last.response.status) == ("response.incomplete", "cancelled")
            assert last.response.output_text == joined(events)
            assert client.responses.retrieve(last.response.id).output_text == joined(events)

    async def test_the_async_client_does_the_same(self, server_url):
        async with openai.AsyncOpenAI(base_url=f"{server_url}/v1", api_key="-") as client:

            async def talk(number):
                async with client.responses.connect() as connection:
                    await connection.response.create(input=f"My name is Ada {number}.", **GREEDY)
                    async for event in connection:
                        if event.type in TERMINAL:
                            break
                    return event.response.status

            assert set(await asyncio.gather(*map(talk, range(4)))) == {"completed"}


class TestChatCompletions:
    MESSAGES = ({"role": "system", "content": "Be kind. " * 10}, {"role": "user", "content": STORY})

    def test_streamed_or_not_it_is_the_same_and_the_second_is_cached(self, client):
        whole = client.chat.completions.create(messages=self.MESSAGES, **GREEDY)
        chunks = list(
            client.chat.completions.create(
                messages=self.MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY
            )
        )
        assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content != ""
        assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason] == ["stop"]
        assert chunks[-1].choices == []
        prompt = chunks[-1].usage.prompt_tokens
        assert chunks[-1].usage.prompt_tokens_details.cached_tokens >= (prompt - 1) // 16 * 16 > 0
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    def test_a_history_that_is_sent_again_is_warm(self, client):
        messages = list(self.MESSAGES)
        for question in ("What is my name?", "Where do I live?"):
            answer = client.chat.completions.create(messages=messages, **GREEDY)
            messages += [answer.choices[0].message.model_dump(include={"role", "content"})]
            messages += [{"role": "user", "content": question}]
        last = client.chat.completions.create(messages=messages, **GREEDY)
        computed = answer.usage.total_tokens - 1
        assert last.usage.prompt_tokens_details.cached_tokens == computed

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 13])
    def test_characters_are_whole_wherever_the_answer_is_cut(self, client, limit):
        wanted = {"messages": [{"role": "user", "content": "你好，我叫小明😀"}], "max_tokens": limit, **GREEDY}
        whole = client.chat.completions.create(**wanted)
        streamed = client.chat.completions.create(stream=True, **wanted)
        text = "".join(c.choices[0].delta.content or "" for c in streamed)
        assert text == whole.choices[0].message.content
        assert "\N{REPLACEMENT CHARACTER}" not in text


class TestConversations:
    def test_a_life(self, client):
        made = client.conversations.create(metadata={"topic": "tea"}, items=[{"role": "user", "content": STORY}])
        assert client.conversations.retrieve(made.id).metadata == {"topic": "tea"}
        client.conversations.update(made.id, metadata={"topic": "rain"})
        answer = client.responses.create(input="What is my name?", conversation=made.id, **GREEDY)
        assert answer.conversation.id == made.id
        items = list(client.conversations.items.list(made.id, order="asc", limit=2))
        assert [(i.role, i.content[0].text) for i in items] == [
            ("user", STORY), ("user", "What is my name?"), ("assistant", answer.output_text),
        ]  # fmt: skip
        assert client.conversations.items.retrieve(items[-1].id, conversation_id=made.id) == items[-1]
        added = client.conversations.items.create(made.id, items=[{"role": "user", "content": "One more."}])
        assert [i.content[0].text for i in added.data] == ["One more."]
        assert client.conversations.items.delete(added.data[0].id, conversation_id=made.id).id == made.id
        assert len(list(client.conversations.items.list(made.id))) == 3
        assert client.conversations.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.conversations.retrieve(made.id)


def test_models(client):
    [model] = client.models.list()
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-4o")
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("wanted", "kind", "code", "param"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found", "model"),
        ({"temperature": -1.0}, openai.BadRequestError, "invalid_request", "temperature"),
        ({"tools": [{"type": "web_search"}]}, openai.BadRequestError, "invalid_request", "tools"),
        ({"input": "word " * 9000}, openai.BadRequestError, "context_length_exceeded", "input"),
        ({"conversation": "conv_never"}, openai.NotFoundError, "conversation_not_found", "conversation"),
        (
            {"previous_response_id": "resp_never"},
            openai.NotFoundError,
            "previous_response_not_found",
            "previous_response_id",
        ),
    ],
)
def test_refusals_are_the_packages_own_exceptions(client, wanted, kind, code, param):
    with pytest.raises(kind) as refused:
        client.responses.create(**{"input": "Hello", **GREEDY, **wanted})
    assert (refused.value.code, refused.value.param) == (code, param)
    assert refused.value.request_id.startswith("req_")
