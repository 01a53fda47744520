"""The log itself: what happens where it cannot be written."""

import json
import logging

import pytest
import structlog

from chatpager.cli.logs import set_up_logs


@pytest.fixture
def logs_again():
    before, handlers = structlog.get_config(), logging.getLogger().handlers
    yield
    structlog.configure(**before)
    logging.getLogger().handlers = handlers


class Disk:
    """A file on a disk that may be full."""

    full = False
    text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        if self.full:
            raise OSError(28, "No space left on device")

    def isatty(self):
        return False


def test_what_cannot_be_written_stops_nobody_and_is_counted(monkeypatch, logs_again):
    disk = Disk()
    monkeypatch.setattr("sys.stderr", disk)
    set_up_logs("json")
    disk.full = True
    for _ in range(3):
        structlog.get_logger("chatpager").info("turn")
    logging.getLogger("of a library").warning("said")
    disk.full, disk.text = False, ""
    structlog.get_logger("chatpager").info("after")
    told, after = disk.text.splitlines()
    assert json.loads(told) == {"event": "log.lost", "level": "error", "lines": 4}
    assert json.loads(after)["event"] == "after"
    structlog.get_logger("chatpager").info("later")
    assert len(disk.text.splitlines()) == 3
