"""Memory that a step freed stays with the process, for the next step to have.

glibc gives large pieces back to the system at once. To get them anew takes a page fault for every 4 KiB, which a
prompt's step paid for each of its layers' outputs: 20 ms for 48 MiB, which are written in 2. Nor does it keep large
pieces in the heaps of its own that it makes for threads: those are of 64 MiB.
"""

import ctypes
import logging

MOST = 512 << 20
"""Bytes at the end of the heap that are kept; what is free beyond goes back."""
LARGE = 1 << 20
"""Bytes from which on a piece has a mapping of its own, which goes back as a whole, unless all is kept."""
TOP = 4 << 20
"""``MOST`` of a process that does not keep what is large."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
"""Numbers of mallopt(3)."""

log = logging.getLogger(__name__)


def keep() -> bool:
    """From now on; what is large and lives long should have its memory by then. False where the C library, another than
    glibc, has no such choice."""
    return _chosen((_MMAP_MAX, 0), (_TRIM_THRESHOLD, MOST))


def share_heap() -> bool:
    """Have all threads take their memory from one heap, if they have not begun; else as ``keep``. Large tables stay out
    of it: left to itself glibc takes them in once one of their size was freed, and whenever one is made anew small
    pieces have settled where the last one was, so the heap grows by another."""
    return _chosen((_ARENA_MAX, 1), (_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, TOP))


def _chosen(*choices: tuple[int, int]) -> bool:
    try:
        choose = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError) as error:  # TypeError: of Windows
        log.debug("freed memory is left to the C library: %r", error)
        return False
    return all(choose(*choice) for choice in choices)
