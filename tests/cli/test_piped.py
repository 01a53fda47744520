"""A pipe's lines, however they come, and the signals in between."""

import os
import signal
import threading

import pytest

from chatpager.cli.piped import PipedLines


@pytest.fixture
def pipe(monkeypatch):
    ours, theirs = os.pipe()
    with open(ours, encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield theirs


def test_lines_come_as_they_were_written(pipe):
    lines = PipedLines()
    os.write(pipe, b"one\r\ntwo\nd")
    assert [lines.next(), lines.next()] == ["one\n", "two\n"]
    half = "\N{SNOWMAN}".encode()
    os.write(pipe, b"rei " + half[:2])
    threading.Timer(0, lambda: (os.write(pipe, half[2:] + b"\xff\nlast"), os.close(pipe))).start()
    assert [lines.next(), lines.next(), lines.next()] == ["drei \N{SNOWMAN}\ufffd\n", "last", ""]


def test_a_signal_is_heard_while_a_line_is_waited_for_and_leaves_nothing(pipe):
    class Heard(Exception):
        pass

    def hear(number, frame):
        raise Heard

    def signalled():
        threading.Timer(0, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        PipedLines().next()

    before = signal.signal(signal.SIGUSR1, hear)
    opened = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(Heard):
            signalled()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(os.listdir("/proc/self/fd")) == opened
    was = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(was)
    assert was == -1
    os.close(pipe)
