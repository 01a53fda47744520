"""A slow reader gets every frame, in the one order."""

import json

from websockets.asyncio.client import connect

from tests.serving import GREEDY, eventually

BULK = {str(i): "😀" * 512 for i in range(16)}
"""Metadata of 32 KiB, which comes back in every response object: a few of them fill every buffer on the way."""


async def test_responses_do_not_mix_however_slowly_they_are_read(server):
    address = server.url.replace("http", "ws") + "/v1/responses"
    async with connect(address, max_size=None, compression=None, max_queue=1, write_limit=1 << 20) as ws:
        for name in range(12):
            body = {"type": "response.create", "input": str(name), "metadata": BULK, **GREEDY, "max_output_tokens": 3}
            await ws.send(json.dumps(body, ensure_ascii=False))
            await ws.send('{"type": "response.steer"}')
        await eventually(lambda: server.service.metrics._turns.labels("response", "incomplete")._value.get() >= 2)
        responses, errors, current = [], 0, None
        while len(responses) < 12 or errors < 12:
            frame = json.loads(await ws.recv())
            if frame["type"] == "error":
                errors += 1
                continue
            if frame["type"] == "response.created":
                assert current is None, "the one before has ended"
                current = []
            current.append(frame["sequence_number"])
            if frame["type"] == "response.incomplete":
                assert current == list(range(len(current)))
                responses.append(frame["response"]["id"])
                current = None
    assert len(set(responses)) == 12
