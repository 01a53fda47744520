"""Why a conversation finds nothing after a restart: its blocks have names that this server does not give."""

import shutil

import pytest

from chatpager.sessions.salts import server_secret
from tests.chat_models import save_model
from tests.serving import GREEDY

LONG = "The quick brown fox jumps over the lazy dog. " * 3


@pytest.fixture
def other_model(chat_model, tmp_path):
    """Other weights, the same tokenizer and template."""
    folder = shutil.copytree(chat_model, tmp_path / "other-model")
    return save_model(folder, seed=4)


@pytest.fixture
def opened(serve, tmp_path):
    """A server on the same database, KV folder and data folder each time."""

    def open_again(**more):
        return serve(engine={"kv_dir": str(tmp_path / "kv")}, hub={"secret": server_secret(tmp_path / "data")}, **more)

    return open_again


def on(wire, first):
    """How a client goes on with a turn by each wire."""
    return (
        {"previous_response_id": first["id"]} if wire == "response" else {"conversation": first["conversation"]["id"]}
    )


async def told(server, wire, first):
    response = await server.respond("And then?", **on(wire, first), **GREEDY)
    return response["chatpager"]["cache"]


@pytest.mark.parametrize("wire", ["response", "conversation"])
async def test_a_restart_tells_what_changed(opened, other_model, tmp_path, wire):
    async with opened() as server:
        more = {"conversation": await server.conversation()} if wire == "conversation" else {}
        first = await server.respond(LONG, **more, **GREEDY)
        before = first["chatpager"]["cache"]["domain"]
        assert set(before) == {"model", "salt"} and all(before.values())
    async with opened() as server:
        same = await told(server, wire, first)
        assert (same["miss_reason"], same["domain"]) == ("sub_block", before)
        assert same["disk_tokens"] > 0
    for change in ({"block": 16}, {"model": other_model}):
        async with opened(**change) as server:
            other = await told(server, wire, first)
            assert (other["miss_reason"], other["disk_tokens"], other["device_tokens"]) == ("fingerprint", 0, 0)
            assert (other["domain"]["model"] != before["model"], other["domain"]["salt"]) == (True, before["salt"])
        async with opened() as server:  # the last turn of a conversation is the other server's now
            await told(server, wire, first)
    (tmp_path / "data" / "secret").unlink()
    async with opened() as server:
        other = await told(server, wire, first)
        assert (other["miss_reason"], other["disk_tokens"]) == ("salt", 0)
        assert (other["domain"]["model"], other["domain"]["salt"] != before["salt"]) == (before["model"], True)


async def test_a_stateless_client_is_told_too(opened, tmp_path):
    asked = {"role": "user", "content": LONG}

    async def ask(server, messages):
        answer = await server.post("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 8})
        return answer.json

    async with opened() as server:
        said = (await ask(server, [asked]))["choices"][0]["message"]
    (tmp_path / "data" / "secret").unlink()
    async with opened() as server:
        again = await ask(server, [asked, {"role": "assistant", "content": said["content"]}, asked])
        assert again["chatpager"]["cache"]["miss_reason"] == "salt"


async def test_a_receipt_that_does_not_say_where_its_blocks_were_says_nothing(opened, tmp_path):
    async with opened() as server:
        first = await server.respond(LONG, **GREEDY)
        async with server.hub.store._database.write("forget") as c:
            await c.exec_driver_sql("UPDATE turns SET receipt = json_remove(receipt, '$.domain')")
    (tmp_path / "data" / "secret").unlink()
    async with opened() as server:
        assert (await told(server, "response", first))["miss_reason"] == "lost"
