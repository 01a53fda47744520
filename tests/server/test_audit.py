"""What admins do is written down before it is done, by whom and from where, and without a word of anybody's."""

import pytest

from chatpager.errors import StoreError
from chatpager.server.app import drain
from chatpager.store import new_key
from tests.server.test_access import BEARER
from tests.server.test_tenants import Bearer, bearer
from tests.serving import GREEDY

SECRET = "a word that nobody else shall read"


@pytest.fixture
async def guarded(serve):
    async with serve(api_key="secret") as running:
        yield running


async def written(server, query="", headers=BEARER):
    answer = await server.get(f"/v1/admin/audit{query}", headers=headers)
    assert answer.status == 200, answer.body
    assert answer.headers["Cache-Control"] == "no-store" and SECRET not in answer.body.decode()
    return answer.json


async def test_what_admins_do_is_written_down_with_who_did_it(guarded):
    own = Bearer(guarded, "secret")
    made, key = new_key("ann", "", "admin", 1)
    await guarded.service.store.keys.create(made)
    ann = Bearer(guarded, key)
    hers = await ann.conversation()
    await ann.respond(SECRET, conversation=hers)
    await ann.ok("PUT", f"/v1/conversations/{hers}/pin", {"ttl": 60})
    await ann.ok("DELETE", f"/v1/conversations/{hers}/pin")
    await own.ok("POST", "/v1/prefixes", {"label": "rules", "instructions": SECRET * 9})
    await own.ok("DELETE", "/v1/prefixes/rules")
    await ann.ok("DELETE", f"/v1/conversations/{hers}")
    rows = (await written(guarded))["data"][::-1]
    assert [(row["key"], row["tenant"], row["action"], row["target"], row["address"]) for row in rows] == [
        ("operator", "ann", "key.created", made.id, ""),
        (made.id, "ann", "conversation.pinned", hers, "127.0.0.1"),
        (made.id, "ann", "conversation.unpinned", hers, "127.0.0.1"),
        ("own", "default", "prefix.published", "rules", "127.0.0.1"),
        ("own", "default", "prefix.withdrawn", "rules", "127.0.0.1"),
        (made.id, "ann", "conversation.deleted", hers, "127.0.0.1"),
    ]
    assert all(row["at"] for row in rows)
    first = await written(guarded, "?limit=2")
    assert first["has_more"] and len(first["data"]) == 2
    rest = await written(guarded, f"?before={first['data'][-1]['number']}")
    assert first["data"] + rest["data"] == rows[::-1] and not rest["has_more"]


async def test_what_was_said_is_revealed_by_name_to_whom_it_concerns_and_written_down(guarded):
    own, [ann, chief, bob] = (
        Bearer(guarded, "secret"),
        [await bearer(guarded, tenant, role) for tenant, role in (("ann", "user"), ("ann", "admin"), ("bob", "admin"))],
    )
    conversation = await ann.conversation()
    await ann.respond("Hello", conversation=conversation)
    turn = await ann.respond(SECRET, conversation=conversation)
    path = f"/v1/admin/sessions/ann/{conversation}/turns/{turn['id']}/reveal"
    for stranger in (ann, bob, await bearer(guarded, "ann", "read-only")):
        assert (await stranger.call("POST", path)).status == 403
    assert (await own.call("POST", path.replace(turn["id"], "resp_none"))).status == 404
    assert (await own.call("POST", path.replace("/ann/", "/bob/"))).status == 404
    before = (await written(guarded))["data"]
    assert "turn.revealed" not in {row["action"] for row in before}
    for reader in (own, chief):
        answer = await reader.call("POST", path)
        assert answer.status == 200 and answer.headers["Cache-Control"] == "no-store"
        said = [(item["role"], "".join(part["text"] for part in item["content"])) for item in answer.json["data"]]
        assert said == [("user", SECRET), ("assistant", turn["output"][0]["content"][0]["text"])]
    rows = (await written(guarded))["data"][: -len(before)]
    assert [(row["action"], row["target"], row["tenant"]) for row in rows] == [
        ("turn.revealed", turn["id"], "ann"),
        ("turn.revealed", turn["id"], "default"),
    ]


async def test_what_users_do_is_theirs(guarded):
    ann = await bearer(guarded, "ann")
    conversation = await ann.conversation()
    await ann.respond("Hello", conversation=conversation)
    await ann.ok("PUT", f"/v1/conversations/{conversation}/pin", {"ttl": 60})
    await ann.ok("DELETE", f"/v1/conversations/{conversation}")
    assert [row["action"] for row in (await written(guarded))["data"]] == ["key.created"]
    assert (await ann.call("GET", "/v1/admin/audit")).status == 403
    assert (await guarded.get("/v1/admin/audit")).status == 401


async def test_nobody_fills_it_where_there_are_no_keys(server):
    """There is nobody to name, and whoever reaches the machine could add to it without end."""
    conversation = await server.conversation()
    await server.respond("Hello", conversation=conversation)
    for pin in (f"/v1/conversations/{conversation}/pin", f"/v1/admin/sessions/default/{conversation}/pin"):
        assert (await server.call("PUT", pin, {"ttl": 60})).status == 200
        assert (await server.delete(pin)).status == 200
    assert (await server.delete(f"/v1/conversations/{conversation}")).status == 200
    assert (await written(server, headers={}))["data"] == []


async def test_what_cannot_be_written_down_is_not_done(guarded, monkeypatch):
    own = Bearer(guarded, "secret")
    conversation = await own.conversation()

    async def full(entry):
        raise StoreError("the database is full")

    monkeypatch.setattr(guarded.service.store.audit, "add", full)
    assert (await own.call("DELETE", f"/v1/conversations/{conversation}")).status == 503
    assert (await own.call("GET", f"/v1/conversations/{conversation}")).status == 200


async def test_an_end_of_the_server_is_written_down_and_comes_also_where_it_cannot_be(serve, monkeypatch):
    async with serve(api_key="secret") as server:
        await drain(server.app)
        [row] = (await written(server))["data"]
        assert (row["key"], row["action"]) == ("operator", "server.drained")
    async with serve(api_key="secret") as server:
        await server.post("/v1/responses", {"input": "a", **GREEDY}, headers=BEARER)
        await server.service.store.close()
        await drain(server.app)
        assert server.service.draining


@pytest.mark.parametrize("query", ["?before=x", "?before=-1", "?before=" + "9" * 30, "?limit=0", "?limit=101"])
async def test_a_page_that_is_none(guarded, query):
    answer = await guarded.get(f"/v1/admin/audit{query}", headers=BEARER)
    assert answer.refusal == (400, "invalid_request", query[1:].partition("=")[0])


async def test_a_name_that_is_sent_is_written_as_one_line(guarded):
    answer = await guarded.delete("/v1/conversations/" + "x%0Ay" + "z" * 300, headers=BEARER)
    assert answer.status == 404
    [row] = (await written(guarded))["data"]
    assert row["target"] == "xy" + "z" * 197
