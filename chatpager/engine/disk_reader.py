"""Asking the disk tier's folder, which is not waited for where its file system hangs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from chatpager.engine.patient import Hangs, Patient

T = TypeVar("T")
log = logging.getLogger(__name__)

HANGS_SECONDS = 1.0
"""After which a read is not waited for any more: more than a disk that works takes for a block."""


class DiskReader(Patient):
    def __init__(self, folder: Path) -> None:
        super().__init__("chatpager-disk-reader", HANGS_SECONDS)
        self.hung = 0
        self._folder = folder

    def ask_or(self, work: Callable[[], T], otherwise: T, level: int = logging.WARNING) -> T:
        """What ``work`` returns, or ``otherwise`` where it hangs, which is counted, or raises OSError, which is logged
        at ``level``."""
        try:
            return self.ask(work)
        except Hangs:
            self.hung += 1
            if self.hung.bit_count() == 1:  # less and less often
                log.warning("%s hangs; what is there is computed again meanwhile (%d so far)", self._folder, self.hung)
        except OSError as error:
            log.log(level, "%s does not tell what is there: %s", self._folder, error)
        return otherwise
