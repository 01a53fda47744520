"""Named places where a test breaks the process, as a power switch would.

``CHATPAGER_FAILPOINTS="store.journal.before_commit=kill@3,store.finish_turn.after_commit=raise"`` arms two of them:
the first kills the process (SIGKILL) at its third hit, the second raises ``FailpointHit`` at its first. Because that
is no setting for production, arming is refused unless ``CHATPAGER_TEST_MODE=1``.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from chatpager.errors import ConfigError

_TRAP = re.compile(r"(?P<name>[\w.]+)=(?P<action>kill|raise)(?:@(?P<nth>[1-9]\d*))?")


class FailpointHit(Exception):
    """Raised by a trap whose action is ``raise``; outside the error tree, as a bug would be."""


@dataclass
class _Trap:
    action: str
    hits_left: int


_armed: dict[str, _Trap] = {}


def hit(name: str) -> None:
    """Pass the place ``name``; nothing happens unless a trap is set there."""
    if _armed and name in _armed:
        _step_on(name)


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
        raise ConfigError("failpoints", f"{part!r} is not name=kill or name=raise, with @n at the n-th hit", value=spec)
    return found["name"], _Trap(found["action"], int(found["nth"] or 1))


def _step_on(name: str) -> None:
    trap = _armed[name]
    trap.hits_left -= 1
    if trap.hits_left > 0:
        return
    del _armed[name]
    if trap.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)  # pragma: no cover - nothing is left to count it
    raise FailpointHit(name)


arm(os.environ.get("CHATPAGER_FAILPOINTS", ""))
