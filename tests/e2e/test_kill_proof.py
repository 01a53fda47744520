"""The first promise: the session is all there after ``kill -9``, and a turn computes only what is new."""

import contextlib
import signal

import openai
import pytest
import transformers
import websockets

from chatpager import Client
from chatpager.client import Ended, Text
from chatpager.demo import model_path
from tests.processes import free_port, serving, spawn

BLOCK = 16
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
"""The openai package calls websockets in a way that websockets 17 has deprecated."""

QUESTIONS = ["My name is Ada.", "What is chatpager?", "What is my name?"]
TERMINAL = ("response.completed", "response.incomplete", "response.failed")


class Reckoning:
    """The prompt's length and what of it must be cached, from transformers' own tokenizer and template."""

    def __init__(self):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model_path())
        self.messages, self.in_cache = [], 0

    def ask(self, question):
        """(tokens of the prompt, tokens of it that are in the cache) of the turn that asks this."""
        self.messages.append({"role": "user", "content": question})
        prompt = self.tokenizer.apply_chat_template(self.messages, add_generation_prompt=True, return_dict=False)
        return len(prompt), self.in_cache

    def answered(self, text):
        """An answer's last token has no keys and values yet: no later one has looked back at it."""
        self.messages.append({"role": "assistant", "content": text})
        whole = self.tokenizer.apply_chat_template(self.messages, return_dict=False)
        end_of_turn = len(whole) - whole[::-1].index(self.tokenizer.eos_token_id) - 1
        self.in_cache = end_of_turn


def turn(connection, conversation, question, **more):
    """Send a turn; yields its events to the last."""
    more = {"model": "default", "temperature": 0.0, **more}
    connection.send({"type": "response.create", "conversation": conversation, "input": question, **more})
    for event in connection:
        yield event
        if event.type in TERMINAL:
            return


def whole_turn(connection, conversation, question, reckoning):
    prompt, cached = reckoning.ask(question)
    *events, last = turn(connection, conversation, question)
    assert last.type == "response.completed"
    assert last.response.output_text == "".join(e.delta for e in events if e.type == "response.output_text.delta")
    usage = last.response.usage
    assert (usage.input_tokens, usage.input_tokens_details.cached_tokens) == (prompt, cached)
    reckoning.answered(last.response.output_text)
    return last.response.output_text


def items(client, conversation):
    return [
        (
            item.role,
            "".join(part.text for part in item.content),
            item.status,
            getattr(item, "chatpager", {}).get("state"),
        )
        for item in client.conversations.items.list(conversation, order="asc")
    ]


@pytest.fixture
def until_the_end():
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_session_survives_kill_in_the_middle_of_its_fourth_turn(tmp_path, until_the_end):
    reckoning, said, seen, port = Reckoning(), [], "", free_port()
    ours = until_the_end.enter_context(Client(f"http://127.0.0.1:{port}"))
    with (
        serving(spawn, tmp_path, "--port", str(port)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="-") as client,
    ):
        conversation = client.conversations.create().id
        with client.responses.connect() as connection:
            for question in QUESTIONS:
                said += [question, whole_turn(connection, conversation, question, reckoning)]
            assert reckoning.in_cache > BLOCK, "there was something to find in the cache"
            beside = ours.session()
            lost = until_the_end.enter_context(beside.send("Hello", ignore_eos=True, max_output_tokens=2000))
            heard = next(iter(lost))
            fourth = turn(connection, conversation, "Tell me more.", ignore_eos=True, max_output_tokens=2000)
            with contextlib.suppress(websockets.ConnectionClosedError):
                for event in fourth:
                    assert event.type not in TERMINAL
                    if event.type == "response.created":
                        response = event.response.id
                    elif event.type == "response.output_text.delta":
                        seen += event.delta
                        if len(seen) > 20 and server.process.running:
                            server.process.send(signal.SIGKILL)
        assert server.process.wait() == -signal.SIGKILL

    with (
        serving(spawn, tmp_path, "--port", str(port)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="-") as client,
    ):
        *before, asked, answer = items(client, conversation)
        assert [text for _, text, _, _ in before] == said
        assert {(role, status) for role, _, status, _ in before} == {("user", "completed"), ("assistant", "completed")}
        assert asked[:2] == ("user", "Tell me more.")
        role, partial, status, state = answer
        assert (role, status, state) == ("assistant", "incomplete", "interrupted")
        assert seen and partial.startswith(seen)
        stored = client.responses.retrieve(response)
        assert (stored.status, stored.chatpager["state"], stored.output_text) == ("failed", "interrupted", partial)
        assert stored.error.code == "server_restarted"
        *events, end = lost.events()
        heard += "".join(event.text for event in events if isinstance(event, Text))
        assert (end, lost.reply.response["error"]["code"]) == (Ended("failed"), "server_restarted")
        assert heard == lost.reply.text == beside.history()[-1][1]

        with client.responses.connect() as connection:
            goes_on(connection, conversation)
        assert [text for _, text, _, _ in items(client, conversation)][:-4] == [*said, "Tell me more.", partial]
        assert server.stop() == 0


def goes_on(connection, conversation):
    """What the fifth turn finds was on disk, and it says so; the sixth finds all that the fifth computed."""
    *_, fifth = turn(connection, conversation, "What is my name?")
    *_, sixth = turn(connection, conversation, "What is chatpager?")
    assert (fifth.type, sixth.type) == ("response.completed", "response.completed")
    cached = fifth.response.usage.input_tokens_details.cached_tokens
    assert cached == fifth.response.chatpager["cache"]["disk_tokens"] > 0
    computed = fifth.response.usage.input_tokens + fifth.response.usage.output_tokens - 1
    assert sixth.response.usage.input_tokens_details.cached_tokens == computed
