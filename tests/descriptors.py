"""A process without a file descriptor left."""

import os
import resource
from contextlib import contextmanager


@contextmanager
def none_left(pid=0):
    """In this process, or in another one: what is open stays so, and nothing more can be opened."""
    if pid:
        taken = set(map(int, os.listdir(f"/proc/{pid}/fd")))
        free = next(n for n in range(len(taken) + 1) if n not in taken)
    else:
        os.close(free := os.dup(0))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
