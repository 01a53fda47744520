"""A store whose disk fails at every sync from some moment on: a filter of this process's system calls says EIO."""

import asyncio
import ctypes
import errno
import json
import platform
import sys

from chatpager.errors import StoreError
from chatpager.store import Store
from tests.store.making import begin, entry, user

ARCHITECTURES = {"x86_64": (0xC000003E, 317, (74, 75)), "aarch64": (0xC00000B7, 277, (82, 83))}
"""As the kernel calls it, and its numbers of seccomp, and of fsync and fdatasync."""
LOAD, EQUALS, RETURN = 0x20, 0x15, 0x06
ALLOWED, FAILS = 0x7FFF0000, 0x00050000 | errno.EIO
NO_NEW_PRIVILEGES, FILTER, ALL_THREADS = 38, 1, 1
SKIPPED = 77
"""Exit code: not here."""


class Step(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(Step)))


def let_syncs_fail():
    if platform.machine() not in ARCHITECTURES:
        skip(f"system calls of {platform.machine()} are not known")
    kernels_name, seccomp, (fsync, fdatasync) = ARCHITECTURES[platform.machine()]
    steps = (Step * 7)(
        (LOAD, 0, 0, 4),
        (EQUALS, 0, 3, kernels_name),
        (LOAD, 0, 0, 0),
        (EQUALS, 2, 0, fsync),
        (EQUALS, 1, 0, fdatasync),
        (RETURN, 0, 0, ALLOWED),
        (RETURN, 0, 0, FAILS),
    )
    libc, program = ctypes.CDLL(None, use_errno=True), Program(len(steps), steps)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.syscall(seccomp, FILTER, ALL_THREADS, ctypes.byref(program)):
        skip(f"no filter of system calls: {errno.errorcode.get(ctypes.get_errno())}")


def skip(why):
    print(why, file=sys.stderr)
    sys.exit(SKIPPED)


async def refused(doing):
    try:
        await doing
    except StoreError as error:
        return str(error)
    return "it was done"


async def main(url):
    store = await Store.open(url, migrate=False)
    await store.create_session("ann", id="conv_1", now=1)
    await store.begin_turn(begin("resp_1", user("hi")))
    let_syncs_fail()
    told = {
        "at the sync": await refused(store.append_messages("ann", "conv_1", [user("hi")], now=2)),
        "after it": await refused(store.create_session("ann", id="conv_2", now=3)),
        "its tokens": await refused(store.journal([entry("resp_1", 0, "hello")])),
        "unusable": store.unusable,
    }
    print(json.dumps(told))
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
