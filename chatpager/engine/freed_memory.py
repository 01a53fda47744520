"""Memory that a step freed stays with the process, for the next step to have.

glibc gives large pieces back to the system at once. To get them anew takes a page fault for every 4 KiB, which a
prompt's step paid for each of its layers' outputs: 20 ms for 48 MiB, which are written in 2. In a thread other than the
first, as a server's engine is, that is still so for pieces of more than 64 MiB, which such a thread's heap cannot hold,
and at times for smaller ones.
"""

import ctypes
import logging

MOST = 512 << 20
"""Bytes at the end of the heap that are kept; what is free beyond goes back."""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of mallopt(3)."""

log = logging.getLogger(__name__)


def keep() -> bool:
    """From now on; what is large and lives long should have its memory by then. False where the C library, another than
    glibc, has no such choice."""
    try:
        choose = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError) as error:  # TypeError: of Windows
        log.debug("freed memory is left to the C library: %r", error)
        return False
    return bool(choose(_MMAP_MAX, 0) and choose(_TRIM_THRESHOLD, MOST))
