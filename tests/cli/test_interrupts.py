"""Ctrl+C at any moment of a command that waits: heard once, and the event loop is whole behind it."""

import asyncio
import signal
import socket

import pytest

from chatpager.cli.interrupts import Waiting
from chatpager.client import AsyncClient


def press(times=1):
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


async def interrupted(times):
    """Pressed in the middle of a step of the loop, while others are to come."""
    others = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(3)]
    asyncio.get_running_loop().call_soon(press, times)
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.gather(*others)


async def answer():
    await asyncio.sleep(0)
    return 42


@pytest.fixture(autouse=True)
def handler():
    before = signal.getsignal(signal.SIGINT)
    yield before
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_waited_for_ends_and_what_comes_next_does_not(times):
    with Waiting() as waiting:
        with pytest.raises(KeyboardInterrupt):
            waiting.run(interrupted(times))
        assert waiting.run(answer()) == 42


def read(waiting, presses=0):
    with waiting.reading():
        press(presses)
        return "read"


def end(presses):
    with Waiting() as waiting:
        press(presses)
        assert waiting.finish(answer()) == 42, "it only cleans up"


def test_between_two_things_it_is_heard_by_the_next(capsys, handler):
    with Waiting() as waiting:
        for hears in (lambda: waiting.run(answer()), lambda: read(waiting)):
            press()
            with pytest.raises(KeyboardInterrupt):
                hears()
        with pytest.raises(KeyboardInterrupt):
            read(waiting, presses=1)
        assert (read(waiting), waiting.run(answer())) == ("read", 42)
    end(presses=0)
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):
        end(presses=1)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL, "there is nothing more to wait for"
    assert capsys.readouterr() == ("", "")


def test_a_command_that_is_to_ignore_it_ignores_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Waiting() as waiting:
        press()
        assert waiting.run(answer()) == 42
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_what_nobody_hears_of_twice_ends_the_process():
    with Waiting() as waiting:
        press(2)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            waiting.run(answer())
        assert signal.getsignal(signal.SIGINT) == waiting._on_signal


def ask(address):
    async def sessions():
        async with AsyncClient(address) as client:
            asyncio.get_running_loop().call_soon(press, 2)
            await client.sessions()

    with Waiting() as waiting:
        waiting.run(sessions())


def test_a_client_that_was_interrupted_is_closed(caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(KeyboardInterrupt):
        ask(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert not caplog.records
