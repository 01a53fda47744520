"""``Client``: the same, for programs without an event loop. The server is a process of its own: nothing here awaits."""

import asyncio
import threading
import time

import pytest

from chatpager import Client
from chatpager.client import ClientError, Created, Ended, UsageError
from tests.processes import SECONDS, serving

SHORT = {"temperature": 0, "max_output_tokens": 8, "ignore_eos": True}


@pytest.fixture(scope="module")
def url(fork_server, tmp_path_factory):
    with serving(fork_server, tmp_path_factory.mktemp("server")) as server:
        yield server.url


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


def test_a_session(client):
    session = client.session(title="About Ada")
    with session.send("My name is Ada.", **SHORT) as answer:
        pieces = list(answer)
    assert "".join(pieces) == answer.reply.text and len(pieces) > 1
    assert repr(answer) == f"<Answer {answer.reply!r}>" and answer.reply.text not in repr(answer)
    assert session.id in repr(session) and repr(client).startswith("<Client of http://")
    assert session.ask("What is my name?", **SHORT).cached_tokens > 0
    assert [role for role, _ in session.history()] == ["user", "assistant"] * 2
    assert [item["type"] for item in session.items()] == ["message"] * 4
    assert client.session(session.id).history() == session.history()
    assert client.sessions(limit=1)[0]["metadata"]["title"] == "About Ada"


def test_all_that_a_session_can_do(client):
    session = client.session()
    first, second = session.ask("One.", **SHORT), session.ask("Two.", **SHORT)
    child = session.fork(first.id)
    assert child.history() == session.history()[:2]
    assert session.pin(30, tokens=16)["tokens"] == 16
    assert session.cache()["leases"]
    session.unpin()
    assert session.cache()["leases"] == []
    assert session.hint("search")["strength"] == "soft"
    assert session.prefetch() == 0
    session.rewind(first.id)
    session.rewind(second.id)
    session.compact("One was said.")
    assert session.history()[0] == ("user", "One was said.")
    session.delete()
    with pytest.raises(ClientError, match="no conversation"):
        session.history()


def test_events_and_an_end_before_the_end(client):
    with client.respond(input="Hello", **SHORT) as answer:
        events = list(answer.events())
    assert (events[0], events[-1]) == (Created(answer.reply.id), Ended("incomplete"))
    long = {**SHORT, "max_output_tokens": 3000}
    with client.respond(input="Hello", **long) as answer:
        for _ in answer:
            answer.cancel()
    assert answer.reply.status == "cancelled"
    with client.respond(input="Hello", **long) as answer:
        next(iter(answer))
    until = time.monotonic() + SECONDS
    while client.request("GET", f"/v1/responses/{answer.reply.id}")["status"] != "cancelled":
        assert time.monotonic() < until


def test_several_threads(client):
    replies = []
    threads = [
        threading.Thread(target=lambda: replies.append(client.session().ask("Hello", **SHORT))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({reply.id for reply in replies}) == 4 and len({reply.text for reply in replies}) == 1


def test_a_call_ends_when_another_thread_leaves_the_client():
    begun, refused = threading.Event(), []

    async def for_ever():
        begun.set()
        await asyncio.Event().wait()

    def call():
        with pytest.raises(UsageError, match="closed"):
            client.run(for_ever())
        refused.append(True)

    thread = threading.Thread(target=call, daemon=True)
    with Client("http://127.0.0.1:9") as client:
        thread.start()
        assert begun.wait(SECONDS)
    thread.join(SECONDS)
    assert refused, "it waits no longer"
    for call in (client.session, client.respond(input="Hello").__enter__):
        with pytest.raises(UsageError, match=r"closed.*make another"):
            call()
    with pytest.raises(UsageError, match="opened once"):
        client.__enter__()
    client.__exit__(None, None, None)


def test_no_server():
    client = Client("http://127.0.0.1:9")
    for call in (client.session, client.respond(input="Hello").__enter__):
        with pytest.raises(UsageError, match="with Client"):
            call()
    with client, pytest.raises(ClientError, match="chatpager demo"):
        client.session()
    with pytest.raises(ValueError, match="http://"):
        Client("nonsense")
    assert "chatpager-client" not in [thread.name for thread in threading.enumerate()]
