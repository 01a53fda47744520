"""Paths and methods that there are not: told in each wire's own shape, with what there is instead."""

import re

import pytest

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def words(answer, path, code):
    """The message of an error, whose shape is checked: under ``/v1/messages`` it is Anthropic's."""
    if not path.startswith("/v1/messages"):
        assert answer.error["code"] == code, path
        return answer.error["message"]
    told = answer.json
    assert (told["type"], set(told)) == ("error", {"type", "error", "request_id"}), path
    assert told["error"]["type"] == ("not_found_error" if code == "not_found" else "invalid_request_error")
    assert told["request_id"] == answer.headers["request-id"]
    return told["error"]["message"]


async def test_each_path_names_the_methods_that_it_has_and_no_other(server):
    routes = [(re.sub(r"\{[^}]*\}", "[^/]+", r.resource.canonical), r.method) for r in server.app.router.routes()]
    paths = {place.replace("[^/]+", "x") for place, _ in routes}
    assert len(paths) > 30
    for path in paths:
        has = {method for place, method in routes if re.fullmatch(place, path)}
        for method in set(METHODS) - has:
            answer = await server.call(method, path)
            assert answer.status == 405, (method, path)
            assert answer.headers["Allow"] == ", ".join(sorted(has))
            if method != "HEAD":
                told = words(answer, path, "method_not_allowed")
                assert told.startswith(f"{method} is not allowed on '{path}'; allowed: {answer.headers['Allow']}")


NOT_BUILT = (
    "/v1/embeddings", "/v1/audio/speech", "/v1/images/generations", "/v1/files", "/v1/batches", "/v1/moderations",
    "/v1/realtime", "/v1/messages/batches/x/results", "/v1/chat", "/v1/", "/v1/responses/", "/v1/responses/x/y",
)  # fmt: skip


@pytest.mark.parametrize("path", NOT_BUILT)
async def test_what_is_not_built_says_where_the_list_is(server, path):
    for method in ("GET", "POST", "DELETE"):
        answer = await server.call(method, path)
        assert answer.status == 404
        assert "/openapi.json" in words(answer, path, "not_found")


async def test_who_has_batches_is_told_that_there_are_none(server):
    answer = await server.post("/v1/messages/batches", {"requests": []})
    assert "batches are not built" in words(answer, "/v1/messages/batches", "method_not_allowed")
