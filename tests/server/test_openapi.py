"""GET /openapi.json: every route is described, and what the routes answer is what the description says."""

import asyncio
import json
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from chatpager.server import openapi
from chatpager.server.app import routes
from chatpager.server.openapi import Routes, document, plain
from chatpager.server.openapi_routes import OPERATIONS
from tests.reliability.inside import told_inside
from tests.serving import DEADLINE

SKIPPED = {("GET", "/v1/responses"), ("GET", "/{path}"), ("GET", "/v1/admin/live"), ("POST", "/v1/admin/drain")}
SKIPPED |= {("DELETE", "/v1/admin/tenants/{tenant}")}
"""A WebSocket, files, a stream that does not end, and what ends or erases the rest."""


def test_every_route_has_a_row_in_openapi_routes_and_every_row_a_route():
    served = {(route.method, plain(route.path)) for route in routes()}
    assert served - OPERATIONS.keys() == set(), "describe these in server/openapi_routes.py"
    assert OPERATIONS.keys() - served == set()


@pytest.fixture(scope="module")
def described():
    rows = tuple((r.method, r.path, r.kwargs.get("name")) for r in routes())
    return document(Routes(rows, frozenset({"health"}), frozenset({"metrics"})))


def test_the_schemas_are_schemas_and_nothing_refers_to_nowhere(described):
    schemas = described["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)

    def refs(value):
        if isinstance(value, dict):
            yield from ([value["$ref"]] if "$ref" in value else [])
            for item in value.values():
                yield from refs(item)
        elif isinstance(value, list):
            for item in value:
                yield from refs(item)

    assert {ref.rpartition("/")[2] for ref in refs(described)} == schemas.keys()
    names = [told["operationId"] for path in described["paths"].values() for told in path.values()]
    assert len(names) == len(set(names)) == len(OPERATIONS)


def test_who_needs_a_key_is_told(described):
    assert described["paths"]["/health"]["get"]["security"] == []
    assert "security" not in described["paths"]["/v1/models"]["get"]
    assert "admins" in described["paths"]["/metrics"]["get"]["description"]
    assert described["security"] == [{"bearer": []}, {"api_key": []}]


async def test_it_is_served_without_a_key_and_only_once(serve, monkeypatch):
    makers = []

    def made(routes):
        makers.append(threading.current_thread())
        return document(routes)

    monkeypatch.setattr(openapi, "document", made)
    openapi.describe.cache_clear()
    async with serve(api_key="secret") as server:
        first = await server.get("/openapi.json")
        assert first.status == 200 and first.json["openapi"] == "3.1.0"
        assert set(first.json["paths"]) == {path for _, path in OPERATIONS}
        again = await server.get("/openapi.json", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        assert len(makers) == 1 and threading.main_thread() not in makers
        assert first.json["paths"]["/v1/responses"]["post"]["requestBody"]["required"] is True


# -- what is drawn, sent, and held against the description

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": st.text(max_size=9) | anything},
        optional={"tool_call_id": st.just("c1"), "tool_calls": anything, "type": st.just("message")},
    ),
    max_size=3,
)
LIKELY = {
    "messages": messages,
    "input": st.text(max_size=9) | messages,
    "items": messages,
    "prompt": st.text(max_size=9) | st.lists(st.text(max_size=5) | st.integers(0, 500), max_size=3),
    "model": st.none() | st.just("tiny"),
    "n": st.integers(0, 3),
}
"""Fields whose meaning no schema knows."""


def drawn(schema, schemas, depth=0):
    """Values that a schema allows, about."""
    if "$ref" in schema:
        return drawn(schemas[schema["$ref"].rpartition("/")[2]], schemas, depth)
    if depth > 4:
        return anything
    if "anyOf" in schema:
        return st.one_of([drawn(one, schemas, depth + 1) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    match schema.get("type"):
        case "object" if "properties" in schema:
            return fields(schema, schemas, depth)
        case "object":
            return st.dictionaries(st.text(max_size=5), anything, max_size=2)
        case "array":
            return st.lists(drawn(schema.get("items", {}), schemas, depth + 1), max_size=2)
        case "string":
            return st.text(max_size=8)
        case "integer":
            return st.integers(schema.get("minimum", -2), min(schema.get("maximum", 40), 40))
        case "number":
            return st.floats(-1, 3)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return anything


def fields(schema, schemas, depth):
    found = {
        name: LIKELY[name] if name in LIKELY and depth == 0 else drawn(of, schemas, depth + 1) | anything
        for name, of in schema["properties"].items()
    }
    needed = {name: found.pop(name) for name in schema.get("required", [])}
    return st.fixed_dictionaries(needed, optional=found)


def calls(described, ids):
    """Strategies of one call each: the operation, its path, query and body."""
    schemas = described["components"]["schemas"]
    for method, path in sorted(OPERATIONS.keys() - SKIPPED):
        told = described["paths"][path][method.lower()]
        names = st.fixed_dictionaries(
            {p["name"]: st.sampled_from(ids) for p in told["parameters"] if p["in"] == "path"}
        )
        query = st.fixed_dictionaries(
            {}, optional={
                p["name"]: drawn(p["schema"], schemas).map(lambda v: json.dumps(v) if not isinstance(v, str) else v)
                for p in told["parameters"] if p["in"] == "query"
            },
        )  # fmt: skip
        body = st.none()
        if "requestBody" in told:
            body = drawn(told["requestBody"]["content"]["application/json"]["schema"], schemas)
        yield st.tuples(st.just((method, path)), names, query, body)


def check(described, method, path, answer):
    """Against what the description has for this status and media type."""
    responses = described["paths"][path][method.lower()]["responses"]
    media = answer.headers["content-type"].partition(";")[0]
    told = responses.get(str(answer.status), responses["default"])
    schema = told["content"][media]["schema"]
    if media == "application/json":
        whole = {**schema, "components": described["components"]}
        Draft202012Validator(whole).validate(answer.json)


async def test_whatever_is_sent_no_route_fails_and_every_answer_is_as_described(serve, described):
    loop = asyncio.get_running_loop()
    seen = set()
    async with serve(lambda prompt: "ok", length=96, blocks=400) as server:
        conversation = await server.conversation(items=[{"role": "user", "content": "a"}])
        response = (await server.respond("a", conversation=conversation))["id"]
        item = (await server.items(conversation))[-1]["id"]
        ids = [conversation, response, item, "tiny", "unknown", "a b/\u4f60"]

        @settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.one_of(list(calls(described, ids))))
        def send(call):
            (method, path), names, query, body = call
            address = path.format(**{name: quoted(value) for name, value in names.items()})
            asking = server.call(method, address, body, params=query)
            answer = asyncio.run_coroutine_threadsafe(asking, loop).result(DEADLINE)
            assert answer.status < 500, (method, path, body, answer.body)
            assert answer.status < 400 or not told_inside(answer.body), (method, path, body, answer.body)
            seen.add((method, path))
            check(described, method, path, answer)

        await asyncio.to_thread(send)
    assert len(seen) > len(OPERATIONS) / 2


def quoted(text):
    from urllib.parse import quote

    return quote(text, safe="")


SURE = {"temperature": 0, "ignore_eos": True}
PLAIN = {
    ("POST", "/v1/responses"): {"input": "a", "max_output_tokens": 3, **SURE},
    ("POST", "/v1/responses/input_tokens"): {"input": "a"},
    ("POST", "/v1/chat/completions"): {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, **SURE},
    ("POST", "/v1/completions"): {"prompt": "a", "logprobs": 0, "max_tokens": 3, **SURE},
    ("POST", "/v1/messages"): {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, **SURE},
    ("POST", "/v1/messages/count_tokens"): {"messages": [{"role": "user", "content": "a"}]},
    ("POST", "/v1/conversations"): {"metadata": {"title": "a"}},
    ("POST", "/v1/conversations/{id}"): {"metadata": {"title": "b"}},
    ("POST", "/v1/conversations/{id}/items"): {"items": [{"role": "user", "content": "a"}]},
    ("POST", "/v1/conversations/{id}/compact"): {"summary": "a", "keep": 0},
    ("PUT", "/v1/conversations/{id}/pin"): {"ttl": 1},
    ("PUT", "/v1/admin/sessions/{tenant}/{id}/pin"): {"ttl": 1},
    ("POST", "/v1/conversations/{id}/hint"): {"eta": 1},
    ("POST", "/v1/prefixes"): {"label": "a", "instructions": "word " * 30, "ttl": 3600},
    ("POST", "/v1/login"): {"key": "a"},
    ("POST", "/tokenize"): {"prompt": "a"},
    ("POST", "/detokenize"): {"tokens": [70]},
}
IN_ORDER = sorted(
    OPERATIONS.keys() - SKIPPED,
    key=lambda k: (k[0] == "DELETE", k[0] == "DELETE" and -len(k[1]), "compact" in k[1], "prefixes/" in k[1], k[1]),
)
"""What takes things away comes last, and the whole of a thing after its parts."""


async def test_good_requests_are_answered_as_described(server, described):
    conversation = await server.conversation(items=[{"role": "user", "content": "a"}])
    response = (await server.respond("a", conversation=conversation))["id"]
    alone = (await server.respond("a"))["id"]
    item = (await server.items(conversation))[-1]["id"]
    for method, path in IN_ORDER:
        kept = alone if method == "DELETE" else response
        if (method, path) == ("DELETE", "/v1/conversations/{id}/items/{item}"):
            item = (await server.items(conversation))[-1]["id"]  # what was compacted has other names
        names = {"item": item, "label": "a", "tenant": "default", "id": kept if "/responses/" in path else conversation}
        names["turn"] = response
        names["id"] = "tiny" if "/models/" in path else "1" if "/blocks/" in path else names["id"]
        body = {"to": response} if path.endswith("/rewind") else PLAIN.get((method, path))
        query = {"first": response, "second": response} if path.endswith("/explain") else None
        from_a_page = {"X-Chatpager-Page": "1"} if path == "/v1/login" else None
        answer = await server.call(method, path.format(**names), body, params=query, headers=from_a_page)
        unknown = (method, path) in (
            ("DELETE", "/v1/chat/completions/{id}"),
            ("DELETE", "/v1/messages/{id}"),
            ("POST", "/v1/admin/requests/{id}/cancel"),
            ("POST", "/v1/admin/replicas/{id}/drain"),
            ("POST", "/v1/admin/replicas/{id}/resume"),
            ("PUT", "/v1/admin/keys/{id}/limits"),
        )
        assert answer.status == (404 if unknown else 200), (method, path, answer.body)
        check(described, method, path, answer)
    for path, events in (
        ("/v1/responses", 5),
        ("/v1/chat/completions", 2),
        ("/v1/completions", 2),
        ("/v1/messages", 4),
    ):
        schema = described["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
        validator = Draft202012Validator({**schema, "components": described["components"]})
        async with server.events(path, PLAIN["POST", path]) as stream:
            told = [event async for _, event in stream if event != "[DONE]"]
        assert len(told) >= events
        for event in told:
            validator.validate(event)
