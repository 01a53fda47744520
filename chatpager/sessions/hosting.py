"""Where the engine lives: in a thread of this process, in a process of its own, or in several, also in a cluster's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from chatpager.engine.engine import Engine
from chatpager.sessions.constraining import Constraining
from chatpager.sessions.engine_host import EngineHost, Hearers
from chatpager.sessions.engine_link import Program
from chatpager.sessions.engine_process import EngineProcess
from chatpager.sessions.engine_replicas import EngineReplicas
from chatpager.sessions.engine_thread import EngineThread
from chatpager.sessions.ray_link import RayReplica
from chatpager.sessions.restarts import Breaker

EngineSource = Callable[[], Engine] | Program | Mapping[str, Program | RayReplica]
"""What makes one in this process; or a process of its own, or several by their names."""


def host_of(
    engine: EngineSource,
    hearers: Hearers,
    breaker: Breaker | None,
    constraining: Constraining,
    *,
    clock: Callable[[], float],
) -> EngineHost:
    """An engine of this process finds compiled what ``constraining`` has; each of several has a ``breaker`` of its
    own. ``clock`` is in seconds."""
    match engine:
        case Program():
            return EngineProcess(engine, hearers, breaker)
        case Mapping():
            again = breaker.another if breaker else lambda: None
            hosts = {name: partial(EngineProcess, one, breaker=again()) for name, one in engine.items()}
            return EngineReplicas(hosts, hearers, clock=clock)
        case _:
            return EngineThread(constraining.shared_with(engine), hearers, breaker)
