"""The rounds of ``test_scale_out`` with engines that are actors of one Ray cluster, whose head is struck, too."""

import asyncio
import time
from contextlib import closing

import pytest
from aiohttp import ClientSession

from chatpager.sessions.salts import SECRET_BYTES
from tests import postgres
from tests.e2e.ray_head import RayHead
from tests.e2e.scale_out import Cluster
from tests.e2e.scale_out_faults import FAULTS
from tests.e2e.scale_out_rounds import rounds_of

pytestmark = [pytest.mark.postgres, pytest.mark.cluster]


@pytest.mark.parametrize("names", [("shared", "shared"), ("front0", "front1")], ids=["shared", "apart"])
async def test_nothing_seen_is_lost_and_no_index_has_two_owners(fork_server, tmp_path, names):
    with postgres.made() as server, postgres.folder() as place, closing(RayHead(place, cpus=4)) as head:

        async def gcs_killed(cluster, rng, http):
            """Answers go on without it; then its operator starts all again."""
            struck = time.monotonic()
            head.kill_gcs()
            await asyncio.sleep(rng.uniform(0.5, 4.0))
            for front in cluster.fronts:
                front.kill()
            head.close()
            await asyncio.to_thread(head.start)
            for front in cluster.fronts:
                front.start()
            for front in cluster.fronts:
                await front.ready()
            return struck

        head.start()
        flags = [("--ray-address", head.address, "--ray-name", name) for name in names]
        with closing(Cluster(fork_server, server, tmp_path, flags, head.environment)) as cluster:
            for front in cluster.fronts:
                front.give(bytes(SECRET_BYTES))
            await rounds_of(cluster, {**FAULTS, "GCS killed": gcs_killed}, tmp_path)
            head.kill_gcs()
            async with ClientSession(raise_for_status=True) as http:
                for front in cluster.fronts:  # which need it to make actors, and not to ask them
                    async with http.post(f"{front.url}/v1/responses", json={"input": "Hello"}) as answer:
                        assert (await answer.json())["status"] == "completed"
