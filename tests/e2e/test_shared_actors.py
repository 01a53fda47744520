"""Two servers of one database whose engines are the same actors of a Ray cluster."""

import asyncio
import os
import signal
from contextlib import closing

import pytest
from aiohttp import ClientSession

from chatpager.sessions.salts import SECRET_BYTES
from tests import postgres
from tests.e2e.ray_head import RayHead
from tests.e2e.scale_out import Cluster

pytestmark = [pytest.mark.postgres, pytest.mark.cluster, pytest.mark.timeout(400)]


async def test_what_one_computed_the_other_finds_and_both_survive_an_actor(fork_server, tmp_path):
    with postgres.made() as server, postgres.folder() as place, closing(RayHead(place, cpus=4)) as head:
        head.start()
        flags = [("--ray-address", head.address, "--ray-name", "shared")] * 2
        with closing(Cluster(fork_server, server, tmp_path, flags, head.environment)) as cluster:
            for front in cluster.fronts:
                front.give(bytes(SECRET_BYTES))
            await cluster.start()
            one, other = cluster.fronts
            async with ClientSession(raise_for_status=True) as http:
                before = await one.replicas(http)
                assert processes(before) == processes(await other.replicas(http))
                async with http.post(f"{one.url}/v1/conversations", json={}) as made:
                    conversation = (await made.json())["id"]
                cached = [(await told(http, front, conversation=conversation))[1] for front in (one, other, one, other)]
                assert sorted(set(cached)) == cached  # each turn finds more
                plain, _ = await told(http, one)
                asked = [asyncio.create_task(told(http, front)) for front in (one, other) for _ in range(4)]
                os.kill(await busy(http, cluster.fronts), signal.SIGKILL)
                assert [text for text, _ in await asyncio.gather(*asked)] == [plain] * 8
                async with asyncio.timeout(60):
                    await cluster.is_whole(http)
                after = await one.replicas(http)
                assert processes(before) != processes(after) == processes(await other.replicas(http))
                one.kill()
                assert (await told(http, other))[0] == plain


async def told(http, front, **more):
    """An answer's text, and how many of its prompt's tokens were cached."""
    body = {"input": "Hello", "max_output_tokens": 120, "temperature": 0, **more}
    async with http.post(f"{front.url}/v1/responses", json=body) as answer:
        response = await answer.json()
    return response["output"][0]["content"][0]["text"], response["usage"]["input_tokens_details"]["cached_tokens"]


def processes(rows):
    assert all(row["state"] == "ok" for row in rows)
    return [row["process"] for row in rows]


async def busy(http, fronts):
    """The process of an actor that answers something."""
    async with asyncio.timeout(30):
        while True:
            for front in fronts:
                for row in await front.replicas(http):
                    if row["answers"]:
                        return row["process"]
