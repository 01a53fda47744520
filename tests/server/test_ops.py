"""Models, health, metrics, version, and the page."""

import asyncio
import re

import pytest
from openai.types import Model
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from chatpager import __version__
from chatpager.server.routes_ops import ASSETS, policy, read_assets
from chatpager.server.storage_watch import EVERY_SECONDS, StorageWatch
from tests.serving import BLOCK, DEADLINE, GREEDY, eventually


async def test_models(server):
    page = (await server.get("/v1/models")).json
    assert page["object"] == "list" and [model["id"] for model in page["data"]] == ["tiny"]
    for name in ("tiny", "default"):
        model = (await server.get("/v1/models/" + name)).json
        Model.model_validate(model)
        assert model == page["data"][0]
        assert (model["id"], model["created"], model["owned_by"]) == ("tiny", 1_700_000_000, "chatpager")
    assert (await server.get("/v1/models/gpt")).refusal == (404, "model_not_found", "model")


async def test_health(server):
    await server.respond("The quick brown fox")
    for path in ("/health", "/health/ready"):
        answer = await server.get(path)
        health = answer.json
        assert (answer.status, health["status"], health["model"]) == (200, "ok", "tiny")
        assert health["requests"] == {"running": 0, "waiting": 0}
        assert health["max_model_len"] == server.hub.max_model_len
        kv = health["kv"]
        assert kv["tokens"] == kv["blocks"] * kv["block_size"] and kv["cached"] > 0
        assert kv["free"] + kv["cached"] + kv["active"] == kv["blocks"]
    assert (await server.get("/health/live")).json == {"status": "ok"}


async def test_an_engine_that_does_not_end_its_step_is_stalled(server):
    server.service.stats_seconds = 0.05
    server.gate.hold()
    async with server.socket() as socket:
        await socket.create("Hello")
        await server.held()
        answer = await server.get("/health")
        assert (answer.status, answer.json) == (503, {"status": "stalled", "version": __version__, "model": "tiny"})
        assert (await server.get("/health/live")).status == 200
        assert (await server.get("/metrics")).status == 200
        server.gate.open()
        await socket.rest()
    server.service.stats_seconds = DEADLINE
    assert (await server.get("/health")).status == 200


async def test_who_asks_whether_turns_can_begin_hears_of_a_full_disk_and_of_its_end(server):
    store, now = server.service.store, [0.0]

    def room(most=None):
        """As a disk that fills up, or gets room: of the connection that writes."""
        with store._database._visits._engine.connect() as c:
            pages = most or c.exec_driver_sql("PRAGMA page_count").scalar()
            c.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    watch = StorageWatch(store, lambda: now[0])
    await watch.look()
    assert (await server.get("/health")).status == 200
    room()
    big = [{"type": "message", "role": "user", "content": "x" * 50_000}]
    refused = await server.post("/v1/conversations", {"items": big})
    assert (refused.status, refused.json["error"]["code"]) == (507, "storage_full")
    for path in ("/health", "/health/ready"):
        answer = await server.get(path)
        assert (answer.status, answer.json["status"]) == (503, "degraded")
        assert answer.json["cause"] == "the database is full: the disk or the database has no room left"
    assert (await server.get("/health/live")).status == 200
    now[0] += EVERY_SECONDS
    await watch.look()
    assert (await server.get("/health")).status == 503, "there is no room yet"
    room(100_000)
    reserve = store._database.file.with_name(store._database.file.name + "-reserve")
    assert reserve.stat().st_size <= 8 << 20 and reserve.stat().st_mode & 0o777 == 0o600
    reserve.unlink()  # as a deletion does
    await watch.look()
    assert (await server.get("/health")).status == 503, "it is not tried all the time"
    now[0] += EVERY_SECONDS
    await watch.look()
    answer = await server.get("/health")
    assert (answer.status, answer.json["status"]) == (200, "ok") and "cause" not in answer.json
    assert reserve.exists()
    reserve.unlink()
    await watch.look()
    assert reserve.exists(), "it is made again whether somebody writes or not"


async def test_a_disk_that_fills_up_while_nobody_writes_is_found_out(server):
    now = [0.0]
    watch = StorageWatch(server.service.store, lambda: now[0])
    with server.service.store._database._visits._engine.connect() as c:
        c.exec_driver_sql("PRAGMA query_only=ON")
    now[0] += EVERY_SECONDS
    await watch.look()
    answer = await server.get("/health")
    assert (answer.status, answer.json["cause"]) == (503, "the database is read-only")


async def test_a_mistake_ends_no_watch(server, monkeypatch):
    monkeypatch.setattr("chatpager.server.storage_watch.EVERY_SECONDS", 0.003)
    looks = []

    def now():
        looks.append(1)
        if len(looks) == 2:
            raise ZeroDivisionError("ours")
        return 0.0

    with capture_logs() as logs:
        watching = asyncio.ensure_future(StorageWatch(server.service.store, now).run())
        await eventually(lambda: len(looks) > 3 or watching.done())
        watching.cancel()
    assert len(looks) > 3
    assert [line["error"] for line in logs if line["event"] == "storage.watch_failed"] == ["ZeroDivisionError"]


async def test_version(server):
    assert (await server.get("/version")).json == {"version": __version__}


async def metrics(server):
    answer = await server.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {name: float(value) for name, value in re.findall(r"^(chatpager_\S+) (\S+)$", answer.body.decode(), re.M)}


async def test_metrics_count_turns_and_tokens(server):
    first = await server.respond("The quick brown fox jumps over the lazy dog")
    second = await server.respond("And then?", previous_response_id=first["id"])
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "ignore_eos": True}
    other = (await server.post("/v1/chat/completions", chat)).json["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert 0 < other < BLOCK, "the beginning that every prompt has"
    got = await metrics(server)
    assert got['chatpager_turns_total{kind="response",status="incomplete"}'] == 2
    cached = second["usage"]["input_tokens_details"]["cached_tokens"]
    assert got['chatpager_prompt_tokens_total{source="device"}'] == cached + other
    assert got["chatpager_prefix_cache_hit_tokens_total"] == cached + other
    assert got["chatpager_generated_tokens_total"] == 17
    assert got['chatpager_miss_turns_total{reason="cold"}'] == 2
    assert got['chatpager_ttft_seconds_count{cache="warm"}'] == 1
    await server.post("/v1/chat/completions", chat)  # all of it but its last token is there
    assert (await metrics(server))['chatpager_ttft_seconds_count{cache="warm"}'] == 2
    assert got['chatpager_queue_seconds_count{lane="short"}'] == 3
    assert got['chatpager_turn_seconds_count{status="incomplete"}'] == 3
    took = sum(answer["chatpager"]["timings"]["total_ms"] for answer in (first, second)) / 1000
    assert got['chatpager_turn_seconds_sum{status="incomplete"}'] > took
    assert got['chatpager_requests{state="running"}'] == 0
    assert got['chatpager_kv_blocks{state="leased"}'] > 0


async def test_what_is_called_total_is_a_counter(server):
    await server.respond("Hello")
    exposed = (await server.get("/metrics")).body.decode()
    kinds = {m.name: m.type for m in text_string_to_metric_families(exposed) if m.name.startswith("chatpager_")}
    totals = set(re.findall(r"^# TYPE (\S+)_total ", exposed, re.M))
    assert {kinds[name] for name in totals} == {"counter"}
    assert {"chatpager_preemptions", "chatpager_evicted_blocks", "chatpager_recomputed_tokens"} <= totals


async def test_metrics_count_open_sockets_and_ends_without_a_token(server):
    async with server.socket() as socket:
        assert (await metrics(server))["chatpager_ws_connections"] == 1
        server.gate.hold()
        await socket.create("Hello", **{**GREEDY, "max_output_tokens": 300})
        created = await socket.receive()
        await server.held()
        await socket.send(type="response.cancel", response_id=created["response"]["id"])
        await eventually(lambda: not server.hub.engine._commands.empty())
        server.gate.open()
        await socket.rest()
        assert (await metrics(server))['chatpager_turns_total{kind="response",status="cancelled"}'] == 1


# -- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "assets" / "main-1a2b.js").write_text("1")
    (tmp_path / "assets" / "font-1a2b.woff2").write_bytes(b"\0")
    (tmp_path / "secret.pem").write_text("not served")
    return read_assets(tmp_path)


def test_what_is_served_is_what_was_built(built):
    assert built == {
        "/index.html": (b"<!doctype html>", "text/html"),
        "/assets/main-1a2b.js": (b"1", "text/javascript"),
        "/assets/font-1a2b.woff2": (b"\0", "font/woff2"),
    }


async def with_page(server, assets):
    server.app[ASSETS].clear()
    server.app[ASSETS].update(assets)


async def test_the_page_and_its_files(server, built):
    await with_page(server, built)
    index = await server.get("/")
    assert (index.status, index.body) == (200, b"<!doctype html>")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert index.headers["cache-control"] == "no-cache"
    policy_sent = index.headers["content-security-policy"]
    assert "default-src 'self'" in policy_sent and "unsafe" not in policy_sent and "http" not in policy_sent
    assert f"connect-src 'self' ws://127.0.0.1:{server.port} wss://127.0.0.1:{server.port};" in policy_sent
    assert index.headers["x-content-type-options"] == "nosniff"
    script = await server.get("/assets/main-1a2b.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in script.headers["cache-control"]
    assert (await server.get("/assets/font-1a2b.woff2")).headers["content-type"] == "font/woff2"
    assert (await server.call("HEAD", "/")).status == 200


@pytest.mark.parametrize(
    ("host", "sockets"),
    [
        ("localhost:8000", " ws://localhost:8000 wss://localhost:8000"),
        ("chat.example", " ws://chat.example wss://chat.example"),
        ("[::1]:8000", ""),
        ("chat.example;script-src *", ""),
        ("a b", ""),
        ("*", ""),
    ],
)
def test_a_page_may_open_sockets_to_its_own_host_alone(host, sockets):
    sources = dict(part.strip().partition(" ")[::2] for part in policy(host).split(";"))
    assert sources["connect-src"] == "'self'" + sockets
    assert sources["script-src"] == "'self'" and len(sources) == 9


@pytest.mark.parametrize(
    "path", ["/secret.pem", "/assets/", "/assets", "/../errors.py", "/%2e%2e/errors.py", "/x.html"]
)
async def test_nothing_else_is_served(server, built, path):
    await with_page(server, built)
    assert (await server.get(path)).refusal == (404, "not_found", None)


async def test_without_a_page_it_says_where_the_api_is(server):
    await with_page(server, {})
    answer = await server.get("/")
    assert answer.status == 200 and "make page" in answer.body.decode()


async def test_who_asks_whether_turns_can_begin_hears_of_a_database_that_went_away(serve):
    async with serve() as server:
        file = server.service.store._database.file
        file.rename(file.with_suffix(".moved"))
        answer = await server.get("/health/ready")
        assert (answer.status, answer.json["status"]) == (503, "storage_lost")
        assert (await server.get("/health/live")).status == 200
