"""A model that has no place for tools, as the built-in one: every wire refuses them alike and names the way out."""

import pytest

from chatpager.client import AsyncClient, ClientError

NAMED = {"name": "search", "description": "Looks things up."}
SCHEMA = {"type": "object", "properties": {"query": {"type": "string"}}}
MESSAGES = [{"role": "user", "content": "Hello"}]
FLAT = {"type": "function", **NAMED, "parameters": SCHEMA}
NESTED = {"type": "function", "function": {**NAMED, "parameters": SCHEMA}}
THEIRS = {"name": "search", "input_schema": SCHEMA}
ASKED = {
    "/v1/responses": {"input": "Hello", "tools": [FLAT]},
    "/v1/responses/input_tokens": {"input": "Hello", "tools": [FLAT]},
    "/v1/chat/completions": {"messages": MESSAGES, "tools": [NESTED]},
    "/v1/messages": {"model": "tiny", "max_tokens": 9, "messages": MESSAGES, "tools": [THEIRS]},
    "/v1/messages/count_tokens": {"model": "tiny", "messages": MESSAGES, "tools": [THEIRS]},
}
TOLD = (
    "tools: the chat template of this model has no place for them; "
    "leave them out, or serve a model that calls tools, such as Qwen3"
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ASKED)
async def test_over_http(server, path, stream):
    answer = await server.post(path, {**ASKED[path], **({"stream": True} if stream else {})})
    assert answer.status == 400
    error = answer.json["error"]
    assert (error["type"], error["message"]) == ("invalid_request_error", TOLD)
    without = {name: value for name, value in ASKED[path].items() if name != "tools"}
    assert (await server.post(path, without)).status == 200, "the way out is one"


async def test_over_the_websocket_and_in_the_client(server):
    async with server.socket() as socket:
        await socket.send(type="response.create", **ASKED["/v1/responses"])
        error = await socket.receive()
    assert (error["type"], error["status"], error["error"]["message"]) == ("error", 400, TOLD)
    async with AsyncClient(server.url) as client:
        session = await client.session()
        with pytest.raises(ClientError, match="leave them out, or serve a model that calls tools"):
            await session.ask("Hello", tools=[FLAT])
