"""The address that a WebSocket is opened with: what is wrong with it is told before there is a socket."""

import json

import pytest
from websockets.exceptions import InvalidStatus

REFUSED = {
    "colour=red": (400, "invalid_request", "colour"),
    "response=resp_x": (400, "invalid_request", "response"),
    "starting_after=4": (400, "invalid_request", "starting_after"),
    "conversation=": (400, "invalid_request", "conversation"),
    "response_id=": (400, "invalid_request", "response_id"),
    "response_id=&starting_after=4": (400, "invalid_request", "response_id"),
    "response_id=a%00b": (400, "invalid_request", "response_id"),
    "response_id=resp_x&starting_after=soon": (400, "invalid_request", "starting_after"),
    "response_id=resp_x&starting_after=": (400, "invalid_request", "starting_after"),
    "response_id=resp_x&response_id=resp_y": (400, "invalid_request", "response_id"),
    "conversation=conv_x": (404, "conversation_not_found", "conversation"),
}


async def refusal(server, query, **more):
    with pytest.raises(InvalidStatus) as refused:
        async with server.socket(query=f"?{query}", **more):
            pass
    answer = refused.value.response
    error = json.loads(answer.body)["error"]
    return (answer.status_code, error["code"], error["param"]), error["message"]


@pytest.mark.parametrize("query", REFUSED)
async def test_a_wrong_address_opens_no_socket(server, query):
    assert (await refusal(server, query))[0] == REFUSED[query]
    assert server.service.metrics.sockets._value.get() == 0


async def test_what_may_stand_there_is_named(server):
    _, told = await refusal(server, "colour=red")
    assert "conversation, response_id, starting_after" in told
    _, told = await refusal(server, "starting_after=4")
    assert "response_id" in told


async def test_a_right_address_opens_one(server):
    conversation = await server.conversation()
    told = await server.respond("Hello")
    for query in ("", f"?conversation={conversation}", f"?conversation={conversation}&response_id={told['id']}"):
        async with server.socket(query=query) as socket:
            if "response_id" in query:
                assert (await socket.rest())[-1]["response"]["id"] == told["id"]
            await socket.create("Hello")
            assert (await socket.rest())[-1]["type"] == "response.incomplete"
