"""What is freed is had again without a page fault."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, threading
import torch
from chatpager.engine import freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(48 << 20, dtype=torch.uint8).zero_()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():  # as the engine does, in a thread, whose memory glibc keeps apart
    print(sys.argv[1] == "kept" and freed_memory.keep(), faults(), faults())

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's choice")
def test_large_memory_that_was_freed_is_there_at_once():
    def run(how):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        chosen, first, again = done.stdout.split()
        return chosen, int(first), int(again)

    plain, kept = run("plain"), run("kept")
    assert plain[0] == "False" and kept[0] == "True"
    assert min(plain[1], plain[2], kept[1]) > 20 * kept[2]


def test_another_c_library_is_left_as_it_is(monkeypatch):
    from chatpager.engine import freed_memory

    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: object())
    assert not freed_memory.keep()
