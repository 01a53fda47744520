"""What strikes a ``scale_out.Cluster``. Each fault is awaited until all runs again that has to be started from outside,
and gives when it struck."""

import asyncio
import signal
import time
from contextlib import suppress

from aiohttp import ClientError

from tests.e2e.scale_out import WATCHDOG_SECONDS, gone, signalled


async def a_replica(cluster, rng, http):
    """The process of one that answers something, if there is one; None: nobody tells of any."""
    rows = []
    for front in cluster.fronts:
        with suppress(ClientError, OSError):
            rows += [row for row in await front.replicas(http) if row["process"]]
    busy = [row for row in rows if row["answers"]] or rows
    return rng.choice(busy)["process"] if busy else None


async def replica_killed(cluster, rng, http):
    pid, struck = await a_replica(cluster, rng, http), time.monotonic()
    signalled([pid], signal.SIGKILL)
    return struck


async def replica_stopped(cluster, rng, http):
    """For less than the watchdog's time."""
    pid, struck = await a_replica(cluster, rng, http), time.monotonic()
    await stopped([pid], rng.uniform(0.2, 0.6 * WATCHDOG_SECONDS))
    return struck


async def replica_hangs(cluster, rng, http):
    """For good: until somebody kills it."""
    pid, struck = await a_replica(cluster, rng, http), time.monotonic()
    signalled([pid], signal.SIGSTOP)
    try:
        async with asyncio.timeout(6 * WATCHDOG_SECONDS):
            await gone([pid])
    finally:
        signalled([pid], signal.SIGCONT)
    return struck


async def front_killed(cluster, rng, http):
    front, struck = rng.choice(cluster.fronts), time.monotonic()
    front.kill()
    await asyncio.sleep(rng.uniform(0.0, 1.0))
    front.start()
    await front.ready()
    return struck


async def front_stopped(cluster, rng, http):
    """Its lease may pass meanwhile."""
    front, struck = rng.choice(cluster.fronts), time.monotonic()
    await stopped([front.process.pid], rng.uniform(0.5, 9.0))
    return struck


async def database_killed(cluster, rng, http):
    struck = time.monotonic()
    await cluster.database.kill()
    await asyncio.sleep(rng.uniform(0.0, 3.0))
    await asyncio.to_thread(cluster.database.start)
    return struck


async def database_stopped(cluster, rng, http):
    struck = time.monotonic()
    await stopped(cluster.database.processes(), rng.uniform(0.5, 9.0))
    return struck


async def stopped(pids, seconds):
    signalled(pids, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        signalled(pids, signal.SIGCONT)


FAULTS = {
    "replica killed": replica_killed,
    "replica stopped": replica_stopped,
    "replica hangs": replica_hangs,
    "front end killed": front_killed,
    "front end stopped": front_stopped,
    "database killed": database_killed,
    "database stopped": database_stopped,
}
