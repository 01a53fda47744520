"""What the pages say of codes, events, metrics and commands is what there is."""

import re

import pytest

from chatpager import errors
from chatpager.cli.reference import reference
from chatpager.config import ServerConfig
from chatpager.server.app import make_app
from chatpager.server.metrics import Metrics
from chatpager.server.openapi import ROUTES
from chatpager.sessions.receipt import MissReason, Receipt
from tests.docs.blocks import PAGES, names, table
from tests.engine.fakes import make_engine
from tests.processes import ROOT

PROTOCOL, OPERATIONS, SESSIONS = (ROOT / "docs" / f"{n}.md" for n in ("protocol", "operations", "sessions-and-cache"))
SERVER = ROOT / "chatpager" / "server"


def kinds(of):
    return {of, *(deeper for kind in of.__subclasses__() for deeper in kinds(kind))}


def test_the_commands_page_is_of_these_commands():
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "it is stale: make docs"


def test_every_error_is_in_the_table_with_its_status():
    roots = (errors.RequestError, errors.EngineError, errors.StoreError)
    there = {(kind.code, kind.status) for root in roots for kind in kinds(root)}
    rows = table(PROTOCOL, "Errors")
    assert {(names(code)[0], int(status)) for code, status, _ in rows} == there
    assert len(rows) == len({names(code)[0] for code, *_ in rows})


def test_every_close_code_is_in_the_table():
    from aiohttp import WSCloseCode

    files = (SERVER / "websocket.py", SERVER / "responses_socket.py")
    used = re.findall(r"WSCloseCode\.(\w+)", "".join(file.read_text() for file in files))
    assert {WSCloseCode[name] for name in used} | {1006} == {int(code) for code, *_ in table(PROTOCOL, "Closing")}


def test_every_event_is_in_a_table():
    files = [SERVER / "wire_events.py", SERVER / "protocol.py", *SERVER.glob("encode_*.py")]
    source = "".join(file.read_text() for file in files)
    sent = set(re.findall(r'"((?:response|chatpager)\.[a-z_.]+[a-z])"', source)) - {"chatpager.v1"}
    told = set()
    for heading in ("A turn on the WebSocket", "What else a client may send"):
        told |= {names(row[0])[0] for row in table(PROTOCOL, heading)}
    told |= set(re.findall(r"^\| `(chatpager\.\w+)` \|", PROTOCOL.read_text(), re.MULTILINE))
    assert told - {"error"} == sent


def test_every_metric_is_in_the_table_with_its_labels():
    metrics = Metrics()
    metrics.render({"r0": make_engine().stats()})
    there = {}
    for family in metrics.registry.collect():
        total = "_total" if family.type == "counter" else ""
        there[family.name.removeprefix("chatpager_") + total] = labels_of(metrics, family)
    told = {name: names(labels) for cell, labels, _ in table(OPERATIONS, "Metrics") for name in names(cell)}
    assert told == there


def test_what_needs_no_key_is_in_the_table_of_keys():
    routes = make_app(ServerConfig(), None)[ROUTES]
    public = {path for method, path, name in routes.rows if name in routes.public and name != "page"}
    told = next(sees for who, sees in table(OPERATIONS, "Keys and tenants") if who == "no key")
    assert set(names(told)) == public


def labels_of(metrics, family):
    """Of a metric, whether anything was counted yet or not."""
    kept = family if hasattr(family, "_labelnames") else metrics.registry._names_to_collectors[family.name]
    return list(kept._labelnames)


def test_what_is_told_of_receipts_is_in_them():
    fields = {name for cell, _ in table(SESSIONS, "The receipt") for name in names(cell)}
    assert fields <= set(Receipt.__struct_fields__)
    reasons = re.findall(r"^\| `(\w+)` \| ", SESSIONS.read_text().partition("`miss_reason` says")[2], re.MULTILINE)
    assert set(MissReason.__args__) == set(reasons)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_place_in_a_page_that_a_link_names_is_there(page):
    for file, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text()):
        text = ((page.parent / file) if file else page).read_text()
        heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        places = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
        assert anchor in places, (file, anchor)
