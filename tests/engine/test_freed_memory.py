"""What is freed is had again without page faults, after a few times."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys, threading
import torch
from chatpager.engine import freed_memory

PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # huge pages come 512 at a fault, where the system gives them

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(int(sys.argv[2]) << 20, dtype=torch.uint8).zero_()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():  # as the engine does, in a thread, whose memory glibc keeps apart
    print(sys.argv[1] == "kept" and freed_memory.keep(), *(faults() for _ in range(30)))

if sys.argv[1] == "kept":
    freed_memory.share_heap()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's choice")
@pytest.mark.parametrize("mebibytes", [40, 120])
def test_large_memory_that_was_freed_is_there_at_once(mebibytes):
    def run(how):
        command = [sys.executable, "-c", FAULTS, how, str(mebibytes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        chosen, *faults = done.stdout.split()
        return chosen, [int(count) for count in faults]

    chosen, faults = run("plain")
    assert chosen == "False" and min(faults) > 5000
    chosen, faults = run("kept")
    assert chosen == "True" and max(faults[-5:]) < 100, faults  # the first ones cut holes of their size


TABLES = """
import ctypes, sys
from chatpager.engine import freed_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks mapped bytes a b c d e".split()]

look = ctypes.CDLL(None).mallinfo
look.restype = Info
if sys.argv[1] == "shared":
    assert freed_memory.share_heap()
for _ in range(3):
    before = look().mapped
    table = bytearray(3 << 20)
    print(look().mapped - before)
    del table
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's choice")
@pytest.mark.parametrize(("how", "apart"), [("plain", ["1", "0", "0"]), ("shared", ["1", "1", "1"])])
def test_large_tables_stay_out_of_the_shared_heap(how, apart):
    done = subprocess.run([sys.executable, "-c", TABLES, how], capture_output=True, text=True, check=True)
    assert done.stdout.split() == apart


def test_another_c_library_is_left_as_it_is(monkeypatch):
    from chatpager.engine import freed_memory

    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: object())
    assert not freed_memory.keep()
