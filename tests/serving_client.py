"""What a test sees of a running server: its answers, its streams, its sockets, and the turns inside."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

from websockets.asyncio.client import connect

from chatpager.server.app import drain
from chatpager.server.service import SERVICE, Service
from tests.gate import DEADLINE

GREEDY = {"temperature": 0, "max_output_tokens": 8, "ignore_eos": True}
"""Sampling fields with which the random model answers with exactly eight tokens."""


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The error's body, whose shape is checked here once for every test."""
        assert self.headers["content-type"].startswith("application/json"), self.body
        answer = self.json
        assert list(answer) == ["error"], answer
        assert set(answer["error"]) == {"message", "type", "param", "code"}, answer
        return answer["error"]

    @property
    def refusal(self):
        return self.status, self.error["code"], self.error["param"]


class Serving:
    """A running server and a client's view of it."""

    def __init__(self, runner, gate, http):
        self.runner, self.gate, self.http = runner, gate, http
        self.app = runner.app
        self.port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._closing = None

    @property
    def service(self) -> Service:
        return self.app[SERVICE]

    def close(self):
        """Shut down as for a signal; to be awaited."""
        self._closing = self._closing or asyncio.ensure_future(self._close())
        return asyncio.wait_for(asyncio.shield(self._closing), DEADLINE)

    async def _close(self):
        await drain(self.app)
        await self.runner.cleanup()

    @property
    def hub(self):
        return self.service.hub

    async def call(self, method, path, body=None, **more):
        if body is not None:
            more["data"] = body if isinstance(body, bytes | str) else json.dumps(body)
        async with self.http.request(method, self.url + path, **more) as response:
            raw = await response.read()
            assert response.headers["x-request-id"].startswith("req_")
            return Answer(response.status, response.headers, raw)

    async def get(self, path, **more):
        return await self.call("GET", path, **more)

    async def post(self, path, body=None, **more):
        return await self.call("POST", path, body, **more)

    async def delete(self, path, **more):
        return await self.call("DELETE", path, **more)

    async def respond(self, input, **more):
        """A response of eight tokens."""
        answer = await self.post("/v1/responses", {"input": input, **GREEDY, **more})
        assert answer.status == 200, answer.body
        return answer.json

    async def conversation(self, **body):
        answer = await self.post("/v1/conversations", body)
        assert answer.status == 200, answer.body
        return answer.json["id"]

    async def items(self, conversation, query="order=asc"):
        answer = await self.get(f"/v1/conversations/{conversation}/items?{query}")
        assert answer.status == 200, answer.body
        return answer.json["data"]

    @asynccontextmanager
    async def events(self, path, body):
        """The events of a streamed answer, as (event or None, data); comments are passed over."""
        async with self.http.post(self.url + path, data=json.dumps({"stream": True, **body})) as response:
            assert response.status == 200, await response.text()
            yield sse_events(response.content)

    @asynccontextmanager
    async def socket(self, *, extended=False, query="", **more):
        address = self.url.replace("http", "ws", 1) + "/v1/responses" + query
        protocols = ["chatpager.v1"] if extended else None
        more = {"compression": None, "open_timeout": DEADLINE, **more}
        async with asyncio.timeout(DEADLINE), connect(address, subprotocols=protocols, **more) as ws:
            yield Socket(ws)

    async def live_turn(self):
        """The one turn that runs, once it does."""
        await eventually(lambda: self.hub.turns)
        [turn] = self.hub.turns.values()
        return turn

    async def held(self):
        """The engine stands before the gate, and what its last step brought is delivered."""
        await eventually(lambda: self.gate.waited_for)
        await asyncio.sleep(0)  # the last step's outputs were handed to the loop before
        await eventually(lambda: not self.hub._delivery._inbox)

    async def turn_ended(self, turn):
        async with asyncio.timeout(DEADLINE):
            return await turn.stream.end()


class Socket:
    """A client's WebSocket: JSON frames."""

    def __init__(self, ws):
        self.ws = ws

    async def send(self, **frame):
        await self.ws.send(json.dumps(frame))

    async def create(self, input, **more):
        await self.send(type="response.create", input=input, **{**GREEDY, **more})

    async def receive(self):
        return json.loads(await self.ws.recv())

    async def until(self, *types):
        """The frames up to the first of one of these types, that one included."""
        frames = []
        while not frames or frames[-1]["type"] not in types:
            frames.append(await self.receive())
        return frames

    async def rest(self):
        """The frames up to a response's end or an error."""
        return await self.until("response.completed", "response.incomplete", "response.failed", "error")


async def sse_events(stream):
    kind, comments = None, 0
    async for line in stream:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            kind = text.removeprefix("event: ")
        elif text.startswith("data: "):
            data = text.removeprefix("data: ")
            yield kind, data if data == "[DONE]" else json.loads(data)
            kind = None
        else:
            comments += text.startswith(":")
            assert text in ("", ": "), text


async def eventually(condition, seconds=DEADLINE):
    """Wait until ``condition()`` holds; returns its value."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, "it never came to hold"
        await asyncio.sleep(0.002)
    return value
