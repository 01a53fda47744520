"""Named places where a test breaks the process, as a power switch would.

``CHATPAGER_FAILPOINTS="store.journal.before_commit=kill@3,store.finish_turn.after_commit=raise"`` arms two of them:
the first kills the process (SIGKILL) at its third hit, the second raises ``FailpointHit`` at its first. ``full`` and
``gone`` raise what SQLite raises on a disk without room and of a file that cannot be opened; ``=full@40x5`` does so
five times, from the fortieth hit on. ``jump`` is for clocks: ``clock.wall=jump@10`` moves it by an hour, to and fro,
every ten looks. What SQLite's writers share is tried once more, each for itself, where a trap among them says that the
disk is full or gone: that is two hits. Because that is no setting for production, arming is refused unless
``CHATPAGER_TEST_MODE=1``.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from chatpager.errors import ConfigError

ACTIONS = ("kill", "raise", "full", "gone", "jump")
_TRAP = re.compile(rf"(?P<name>[\w.]+)=(?P<action>{'|'.join(ACTIONS)})(?:@(?P<nth>[1-9]\d*))?(?:x(?P<times>[1-9]\d*))?")
_SQLITE_CODES = {"full": sqlite3.SQLITE_FULL, "gone": sqlite3.SQLITE_CANTOPEN}
_JUMPS = (0, 3600, 0, -3600)
"""Seconds off."""


class FailpointHit(Exception):
    """Raised by a trap whose action is ``raise``; outside the error tree, as a bug would be."""


@dataclass
class _Trap:
    action: str
    nth: int
    times: int
    hits: int = 0


_armed: dict[str, _Trap] = {}


def hit(name: str) -> None:
    """Pass the place ``name``; nothing happens unless a trap is set there."""
    if _armed and name in _armed:
        _step_on(name)


def jumped(name: str) -> int:
    """Seconds that the clock ``name`` is off, which is looked at: 0 unless it is armed to jump."""
    if not _armed or name not in _armed:
        return 0
    trap = _armed[name]
    trap.hits += 1
    return _JUMPS[trap.hits // trap.nth % len(_JUMPS)]


def arm(spec: str, env: Mapping[str, str] = os.environ) -> None:
    """Replace every trap by those of ``spec``; an empty one disarms.

    Raises:
        ConfigError: ``spec`` cannot be read, or ``env`` does not hold ``CHATPAGER_TEST_MODE=1``.
    """
    if spec and env.get("CHATPAGER_TEST_MODE") != "1":
        raise ConfigError("failpoints", "are for tests: they need CHATPAGER_TEST_MODE=1", value=spec)
    traps = dict(_parse(part.strip(), spec) for part in spec.split(",") if part.strip())
    _armed.clear()
    _armed.update(traps)


def _parse(part: str, spec: str) -> tuple[str, _Trap]:
    found = _TRAP.fullmatch(part)
    if not found:
        kinds = " or ".join(f"name={action}" for action in ACTIONS)
        problem = f"{part!r} is not {kinds}, with @n at the n-th hit, and xk for k hits"
        raise ConfigError("failpoints", problem, value=spec)
    return found["name"], _Trap(found["action"], int(found["nth"] or 1), int(found["times"] or 1))


def _step_on(name: str) -> None:
    trap = _armed[name]
    trap.hits += 1
    if trap.hits < trap.nth:
        return
    if trap.hits + 1 >= trap.nth + trap.times:
        del _armed[name]
    if code := _SQLITE_CODES.get(trap.action):
        error = sqlite3.OperationalError(f"failpoint {name}")
        error.sqlite_errorcode = code
        raise error
    if trap.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)  # pragma: no cover - nothing is left to count it
    raise FailpointHit(name)


arm(os.environ.get("CHATPAGER_FAILPOINTS", ""))
