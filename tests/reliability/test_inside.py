"""The search for what no answer may tell finds it, and nothing else."""

import pytest

from tests.reliability.inside import told_inside

TOLD = [
    "cannot open /home/ann/chat.db", "in /srv/x", "no such file: '/tmp/a'", "File \"<string>\", line 1",
    "<PIL.Image object at 0x7f30c8a1b2d0>", "0x7F30C8A1B2D0", "chatpager.sessions.hub",
    "sqlalchemy.exc.OperationalError", "sqlite3.OperationalError: database is locked",
    "SELECT sessions.id FROM sessions", "INSERT INTO turns (id)",
    "KeyError: 'x'", "a ValueError", "hub.py", "<class 'int'>", "<function f>", "Traceback (most recent call last)",
    "[Errno 2] No such file", "<built-in method x>",
]  # fmt: skip
FINE = [
    "there is nothing at GET /v1/none/usr", "send a key: Authorization: Bearer KEY", "the queue is full",
    "those of ours need the subprotocol chatpager.v1", "chatpager.grammar.regex: Expected `str`",
    "tool_choice.type: one of tool, auto", "error", "0x12",
    "to allow it: --allowed-origins http://localhost:8000", "the store does not take this; select another",
]  # fmt: skip


@pytest.mark.parametrize("text", TOLD)
def test_it_is_found(text):
    assert told_inside(f"x {text} y") and told_inside(text.encode())


@pytest.mark.parametrize("text", FINE)
def test_what_may_be_told(text):
    assert told_inside(text) is None
