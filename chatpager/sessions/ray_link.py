"""The line to an engine that is a Ray actor, in the place of the one to a child process (``engine_link``)."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from chatpager.engine.engine import Engine
from chatpager.errors import EngineStopped
from chatpager.sessions.engine_frames import Unframed, Up, packed, up
from chatpager.sessions.mistakes import log_mistake
from chatpager.sessions.ray_actor import Pulse, RayEngine, digest

log = structlog.get_logger(__name__)

NAMESPACE = "chatpager"
PULSE_SECONDS = 1.0
SILENT_SECONDS = 5.0
"""An actor that does not answer for so long counts as one whose step does not end: a watchdog may kill it."""
PLACE_SECONDS = 120.0
"""In which Ray must have a process for an actor, and again for one that died."""
AGAIN_SECONDS = 0.5
END_SECONDS = 30.0
"""For what an engine that ends still writes."""
SILENT_STEP = -1


class RayReplica:
    """A named, detached actor, made where there is none. ``agreed``: the digest of what the server that made it and
    this one must have alike, which is all ``settings`` unless it is given. ``options`` are Ray's, of what it needs of
    a machine."""

    def __init__(
        self,
        name: str,
        build: Callable[[bytes], Engine],
        settings: bytes,
        *,
        agreed: str | None = None,
        pulse: float = PULSE_SECONDS,
        **options: Any,
    ) -> None:
        self.name, self.build, self.settings, self.pulse, self.options = name, build, settings, pulse, options
        self.agreed = agreed or digest(settings)
        self.asking = ThreadPoolExecutor(1, thread_name_prefix="chatpager-ray")
        """For ``actor``: a cluster may keep it for long, and the loop's own threads are for what is short."""

    def link(self, hear: Callable[[Up], None], lost: Callable[[int], None]) -> RayLink:
        return RayLink(self, hear, lost)

    def actor(self) -> Any:
        """Its handle; blocks. Tasks are never tried again by Ray: what was drawn once may not be drawn twice."""
        import ray

        return (
            ray.remote(RayEngine)
            .options(
                name=self.name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_task_retries=0,
                scheduling_strategy="SPREAD",
                **self.options,
            )
            .remote(self.build, self.settings, self.agreed)
        )


def end_actor(name: str) -> None:
    """For good, and for all who have it, when it has written what it keeps on disk; blocks."""
    import ray
    from ray.exceptions import RayError

    try:
        actor = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:  # there is none
        return
    try:
        ray.get(actor.end.remote(), timeout=END_SECONDS)
    except RayError as error:
        log.warning("replica.not_closed", replica=name, error=type(error).__name__)
    ray.kill(actor, no_restart=True)


class RayLink:
    """As ``Link``. The actor stays when it is closed: it is not this server's alone."""

    def __init__(self, replica: RayReplica, hear: Callable[[Up], None], lost: Callable[[int], None]) -> None:
        self._replica, self._hear, self._lost = replica, hear, lost
        self._front = secrets.token_hex(8)
        self._actor: Any = None
        self._going = bytearray()
        self._sent = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._putting: set[asyncio.Task[None]] = set()
        self._last, self._heard = Pulse(None, 0), 0.0
        self._is_opened = False
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Waits for the model. Raises EngineStopped: the cluster gives no actor, or the line was closed meanwhile."""
        from ray.exceptions import RayError, RayTaskError

        loop = asyncio.get_running_loop()
        self._is_opened, until = True, loop.time() + PLACE_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(until):
                    asked = loop.run_in_executor(self._replica.asking, self._replica.actor)
                    self._actor = await self._unless_closed(asked)
                    self._hear_pulse(Pulse(*await self._unless_closed(self._actor.pulse.remote(self._front))))
                opened = self._actor.open.remote(self._front, self._replica.agreed)
                started = await self._unless_closed(opened)
                break
            except TimeoutError as error:
                wants = ", ".join(f"{name}={value}" for name, value in self._replica.options.items())
                raise EngineStopped(f"the cluster has no place for {self._replica.name} ({wants})") from error
            except RayError as error:  # it is being made again
                if isinstance(error, RayTaskError) or loop.time() > until:
                    said = f"{self._replica.name} cannot be made: {type(error).__name__}; Ray's log of it says more"
                    raise EngineStopped(said) from error
                await asyncio.sleep(AGAIN_SECONDS)
        self._feed(Unframed(), started)
        self._tasks = [loop.create_task(self._read()), loop.create_task(self._beat())]

    async def _unless_closed(self, answer: Awaitable[Any]) -> Any:
        asked = asyncio.ensure_future(answer)
        try:
            await asyncio.wait([asked, self.gone], return_when=asyncio.FIRST_COMPLETED)
            if self.gone.done():
                raise EngineStopped(f"replica {self._replica.name} was given up")
            return asked.result()
        finally:
            asked.cancel()

    @property
    def pid(self) -> int | None:
        """On its own machine; 0: not known yet."""
        return self._last.process if self._is_opened else None

    @property
    def step(self) -> int | None:
        """None too where this server's loop is held up and asks nobody: that says nothing of an actor, which may work
        for others."""
        is_late = time.monotonic() >= self._heard + 2 * (self._replica.pulse + SILENT_SECONDS)
        return None if is_late else self._last.step

    def _hear_pulse(self, pulse: Pulse) -> None:
        self._last, self._heard = pulse, time.monotonic()

    def send(self, message: Any) -> None:
        if not self._going:
            asyncio.get_running_loop().call_soon(self._write)
        self._going += packed(message)

    def _write(self) -> None:
        going, self._going = bytes(self._going), bytearray()
        if going and not self.gone.done():
            self._sent += 1
            put = self._actor.put.remote(self._front, self._sent, going)
            task = asyncio.get_running_loop().create_task(self._is_there(put))
            self._putting.add(task)
            task.add_done_callback(self._putting.discard)

    async def _is_there(self, put: Awaitable[None]) -> None:
        """Behind what does not come the actor would wait for ever: then the line is over."""
        from ray.exceptions import RayError

        try:
            await put
        except RayError as error:
            log_mistake("replica.lost", error, replica=self._replica.name)
            asyncio.get_running_loop().call_soon(self._end, 1)

    def kill(self) -> None:
        """From any thread; Ray makes another process of it. Behind the line's end it may be another already, or work
        for others."""
        if self._actor is not None and not self.gone.done():
            import ray

            ray.kill(self._actor, no_restart=False)

    def close(self) -> None:
        """Leave it alone from now on; it may be loading its model for others."""
        self._end(0)

    def _feed(self, unframed: Unframed, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        for body in unframed.feed(data):
            loop.call_soon(self._hear, up(body))

    async def _read(self) -> None:
        unframed = Unframed()
        try:
            async for item in self._actor.steps.options(num_returns="streaming").remote(self._front):
                self._feed(unframed, await item)
        except Exception as error:  # of Ray's, or of what came: whatever it is, nobody reads on
            log_mistake("replica.lost", error, replica=self._replica.name)
        finally:
            asyncio.get_running_loop().call_soon(self._end, 1)  # behind what it told

    async def _beat(self) -> None:
        from ray.exceptions import RayError

        while True:
            await asyncio.sleep(self._replica.pulse)
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    self._hear_pulse(Pulse(*await self._actor.pulse.remote(self._front)))
            except TimeoutError:
                self._hear_pulse(Pulse(SILENT_STEP, self._last.process))
            except RayError:
                self._hear_pulse(Pulse(None, self._last.process))

    def _end(self, code: int) -> None:
        if self.gone.done():
            return
        for task in (*self._tasks, *self._putting):
            task.cancel()
        self._last = Pulse(None, self._last.process)
        if self._actor is not None:
            self._actor.close.remote(self._front)  # which may live on where only the way to it was lost
        self.gone.set_result(None)
        self._lost(code)
