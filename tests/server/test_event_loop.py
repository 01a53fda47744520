"""However many sockets are ready at once, the loop has time for what else there is."""

import asyncio
import selectors
import socket
from contextlib import ExitStack

from chatpager.server.event_loop import AT_ONCE, FewAtOnce


def pairs(stack, count):
    """So many of which one side has something to read."""
    made = [socket.socketpair() for _ in range(count)]
    for near, far in made:
        stack.enter_context(near)
        stack.enter_context(far)
        far.send(b"a")
    return [near for near, _ in made]


def test_what_is_ready_is_handed_over_some_at_a_time_and_all_of_it():
    with ExitStack() as stack, FewAtOnce() as few:
        ready = pairs(stack, 3 * AT_ONCE)
        for near in ready:
            few.register(near, selectors.EVENT_READ)
        told = [[key.fileobj for key, _ in few.select(0)] for _ in range(3)]
        assert [len(some) for some in told] == [AT_ONCE] * 3
        assert {near for some in told for near in some} == set(ready)


def test_of_what_was_closed_or_changed_meanwhile_nothing_old_is_told():
    with ExitStack() as stack, FewAtOnce() as few:
        for near in pairs(stack, AT_ONCE + 3):
            few.register(near, selectors.EVENT_READ)
        told = [key.fileobj for key, _ in few.select(0)]
        closed, changed, left = [key.fileobj for key in few.get_map().values() if key.fileobj not in told]
        few.unregister(closed)
        few.modify(changed, selectors.EVENT_READ | selectors.EVENT_WRITE)
        assert [key.fileobj for key, _ in few.select(0)] == [left]
        for near in told:
            few.unregister(near)
        again = {key.fileobj: events for key, events in few.select(0)}
        assert again == {left: selectors.EVENT_READ, changed: selectors.EVENT_READ | selectors.EVENT_WRITE}


def test_an_event_loop_runs_on_it():
    def greets(reader, writer):
        writer.write(b"hello")
        writer.close()

    async def greeted():
        async with await asyncio.start_server(greets, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            said = await reader.read()
            writer.close()
            await writer.wait_closed()
            return said

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(FewAtOnce())) as runner:
        assert runner.run(greeted()) == b"hello"
