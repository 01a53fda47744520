"""What the admin page looks up and does: tables, leases, blocks, timelines, cancelling, settings, draining."""

import msgspec
import pytest

from chatpager.config_sources import load
from chatpager.server import wire_admin as w
from chatpager.server.shown_settings import settings_told
from tests.looking import look
from tests.serving import eventually

FOX = "The quick brown fox jumps over the lazy dog. " * 3
SECRET = "xyzzy plugh"


async def told(server, path, kind):
    answer = await server.get(path)
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body, type=kind)


async def two_turns(server, said=FOX, **more):
    conversation = await server.conversation()
    first = await server.respond(said, conversation=conversation, **more)
    return conversation, [first, await server.respond("And then?", conversation=conversation, **more)]


async def test_tables_equal_the_receipts_by_conversation_and_tenant(server):
    one, turns = await two_turns(server)
    other, more = await two_turns(server, "Something else entirely, and longer than a block or two of it")
    tables = await told(server, "/v1/admin/tables", w.Tables)
    assert [row.id for row in tables.sessions] == [other, one], "the latest first"
    for row, ended in zip(tables.sessions, (more, turns), strict=True):
        receipts = [response["chatpager"]["cache"] for response in ended]
        assert (row.tenant, row.turns) == ("default", 2)
        assert row.prompt_tokens == sum(r["prompt_tokens"] for r in receipts)
        assert row.attainable_tokens == sum(r["attainable_tokens"] for r in receipts)
        cached = [response["usage"]["input_tokens_details"]["cached_tokens"] for response in ended]
        assert row.hit_tokens == sum(cached) > 0
        cache = (await server.get(f"/v1/conversations/{row.id}/cache")).json
        assert (row.tokens, row.device_tokens) == (cache["tokens"], cache["device_tokens"])
        assert [lease.strength for lease in row.leases] == [lease["strength"] for lease in cache["leases"]]
    [tenant] = tables.tenants
    assert (tenant.tenant, tenant.turns) == ("default", 4)
    assert tenant.hit_tokens == sum(row.hit_tokens for row in tables.sessions)


async def test_published_prefixes_have_rows(server):
    instructions = "Always answer in the manner of a patient teacher. " * 4
    made = (await server.post("/v1/prefixes", {"label": "teacher", "instructions": instructions})).json
    await server.respond("Hello", instructions=instructions)
    [row] = (await told(server, "/v1/admin/tables", w.Tables)).prefixes
    assert (row.label, row.turns, row.tokens) == ("teacher", 1, made["tokens"])
    assert row.hit_tokens == row.attainable_tokens == made["tokens"]


async def test_a_timeline_has_the_phases_and_no_word_that_was_said(server):
    conversation, turns = await two_turns(server, SECRET + FOX, chatpager={"explain": True})
    answer = await server.get(f"/v1/admin/sessions/default/{conversation}/turns")
    assert SECRET not in answer.body.decode() and "fox" not in answer.body.decode()
    timeline = msgspec.json.decode(answer.body, type=w.Timeline)
    assert [turn.id for turn in timeline.turns] == [response["id"] for response in turns]
    for turn, response in zip(timeline.turns, turns, strict=True):
        cache, timings = response["chatpager"]["cache"], response["chatpager"]["timings"]
        assert turn.computed_tokens == cache["computed_tokens"] and turn.device_tokens == cache["device_tokens"]
        assert (turn.prefill_ms, turn.total_ms) == (timings["prefill_ms"], timings["total_ms"])
        assert (turn.miss_reason, turn.status, turn.output_tokens) == (cache["miss_reason"], "incomplete", 8)
    assert (await server.get("/v1/admin/sessions/default/conv_none/turns")).status == 404
    assert (await server.get(f"/v1/admin/sessions/ann/{conversation}/turns")).status == 404


async def test_a_break_is_told_by_its_place_alone(server):
    conversation = await server.conversation()
    await server.respond(FOX, conversation=conversation, instructions=SECRET + " Be kind.")
    turn = await server.respond(
        "x", conversation=conversation, instructions=SECRET + " Be short.", chatpager={"explain": True}
    )
    broken = turn["chatpager"]["cache"]["break"]
    answer = await server.get(f"/v1/admin/sessions/default/{conversation}/turns")
    [_, last] = msgspec.json.decode(answer.body, type=w.Timeline).turns
    assert broken["got"] and last.broken == w.BreakTold(**{f: broken[f] for f in w.BreakTold.__struct_fields__})
    assert SECRET not in answer.body.decode() and broken["got"] not in answer.body.decode()


async def test_any_tenants_conversation_is_pinned_and_unpinned(server):
    conversation, _ = await two_turns(server)
    path = f"/v1/admin/sessions/default/{conversation}/pin"
    pinned = await server.call("PUT", path, {"ttl": 600})
    assert pinned.status == 200 and pinned.json["expires_in"] == pytest.approx(600, abs=5)
    leases = await told(server, "/v1/admin/leases", w.Leases)
    [row] = leases.data
    assert (row.tenant, row.id, leases.hard) == ("default", conversation, 1)
    assert 0 < leases.leased_blocks <= leases.budget
    hard = next(lease for lease in row.leases if lease.strength == "hard")
    assert hard.seconds_left == pytest.approx(600, abs=5), "as long as the pin lasts, not its next renewal"
    assert (await server.delete(path)).json["deleted"] is True
    assert (await told(server, "/v1/admin/leases", w.Leases)).hard == 0
    assert (await server.call("PUT", "/v1/admin/sessions/ann/conv_none/pin", {"ttl": 5})).status == 409
    assert (await server.call("PUT", path, {"ttl": -1})).refusal == (400, "invalid_request", "ttl")


async def test_a_block_is_told_with_its_conversations(server):
    conversation, _ = await two_turns(server)
    pool = await look(server.hub.engine, lambda engine: engine.pool)
    block = next(b for b in pool.blocks if b.heads)
    found = await told(server, f"/v1/admin/blocks/{block.id}", w.Block)
    assert found.hash == block.hash.hex()
    assert found.sessions == [w.SessionName(tenant="default", id=conversation)]
    for missing in ("0", "99999", "x", "-1"):
        assert (await server.get(f"/v1/admin/blocks/{missing}")).status == 404


async def test_a_running_turn_is_cancelled_whosever_it_is(server):
    server.gate.hold()
    async with server.socket() as socket:
        await socket.create(FOX)
        turn = await server.live_turn()
        answer = await server.post(f"/v1/admin/requests/{turn.id}/cancel")
        assert msgspec.json.decode(answer.body, type=w.Cancelling).id == turn.id
        server.gate.open()
        assert (await server.turn_ended(turn)).status == "cancelled"
    assert (await server.post(f"/v1/admin/requests/{turn.id}/cancel")).status == 404


async def test_who_pushed_out_whom_is_told(serve):
    async with serve(blocks=60, length=240) as server:
        victim, _ = await two_turns(server)
        await server.delete(f"/v1/conversations/{victim}/pin")
        for i in range(8):
            pusher = await server.conversation()
            await server.respond(f"{i} {FOX[::-1]}", conversation=pusher)
        missed = (await server.respond("Still there?", conversation=victim))["chatpager"]["cache"]
        assert missed["evicted"] is not None
        [push, *_] = (await told(server, "/v1/admin/snapshot", w.Snapshot)).pushes
        assert (push.tenant, push.victim, push.by) == ("default", victim, missed["evicted"]["by"])


def test_settings_tell_their_sources_and_no_secret(tmp_path):
    env = {"CHATPAGER_API_KEY": SECRET, "CHATPAGER_DATABASE_URL": "postgresql://ann:geheim@db/chat"}
    shown = {s.name: s for s in settings_told(load({"block_size": 32}, env=env))}
    assert (shown["block_size"].value, shown["block_size"].source) == ("32", "--block-size")
    assert (shown["api_key"].value, shown["api_key"].source) == ("(set)", "CHATPAGER_API_KEY")
    assert "geheim" not in shown["database_url"].value and shown["port"].source == "default"
    assert shown["max_queue"].help and shown["max_queue"].section == "server"


async def test_settings_are_served(server):
    server.service.settings = settings_told(load({}, env={}))
    assert {"block_size", "port", "data_dir"} <= {
        s.name for s in (await told(server, "/v1/admin/settings", w.Settings)).data
    }


async def test_a_drained_server_takes_nothing_new_and_says_so(server):
    assert (await server.post("/v1/admin/drain")).json == {"object": "admin.drain", "status": "draining"}
    assert (await server.post("/v1/admin/drain")).json["status"] == "draining"
    assert (await server.post("/v1/responses", {"input": "Hello"})).status == 503
    await eventually(lambda: not server.hub.engine.alive)
    snapshot = await told(server, "/v1/admin/snapshot", w.Snapshot)
    assert snapshot.status == "draining"


async def test_history_survives_a_restart(serve):
    async with serve() as first:
        await two_turns(first)
        before = first.service.metrics.ledger.total
    async with serve() as second:
        now = await told(second, "/v1/admin/snapshot", w.Snapshot)
        assert [window.turns for window in now.windows] == [0, 0, 2, 2]
        day = now.windows[-1]
        assert (day.hit_tokens, day.attainable_tokens) == (before.hit_tokens, before.attainable_tokens)
        points = (await told(second, "/v1/admin/history?seconds=86400", w.History)).points
        assert sum(point.turns for point in points) == 2
        await two_turns(second)
    async with serve() as third:
        assert (await told(third, "/v1/admin/snapshot", w.Snapshot)).windows[-1].turns == 4


async def test_one_engine_is_told_as_one_replica_and_is_drained_with_its_server(server):
    conversation, _ = await two_turns(server)
    [row] = (await told(server, "/v1/admin/replicas", w.Replicas)).data
    assert (row.id, row.state, row.restarts, row.answers, row.queued_tokens) == ("r0", "ok", 0, None, None)
    assert row.engine.hit_tokens > 0
    [session] = (await told(server, "/v1/admin/tables", w.Tables)).sessions
    assert (session.id, session.replica) == (conversation, "r0")
    refused = await server.post("/v1/admin/replicas/r0/drain")
    assert refused.refusal == (400, "invalid_request", "id") and "drain the server" in refused.error["message"]
    refused = await server.post("/v1/admin/replicas/r9/resume")
    assert refused.refusal == (404, "replica_not_found", None)
    assert (await server.get("/v1/cache/events?replica=r0")).status == 200
    assert (await server.get("/v1/cache/events?replica=r9")).status == 404
