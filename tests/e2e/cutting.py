"""A TCP proxy that resets its client's connection after so many more bytes from the server."""

import asyncio
import socket
import struct
from contextlib import asynccontextmanager, suppress

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, and what is not sent yet is lost


class Cutter:
    """``cut_in`` is armed by the test; ``cuts`` counts what was cut."""

    def __init__(self, port):
        self._port = port
        self._left = None
        self.cuts = 0

    def cut_in(self, size):
        self._left = size

    def never(self):
        self._left = None

    async def connected(self, reader, writer):
        upstream, server = await asyncio.open_connection("127.0.0.1", self._port)
        sending = asyncio.create_task(self._pass_on(reader, server))
        try:
            while data := await upstream.read(1 << 16):
                if self._left is not None and self._left <= len(data):
                    writer.write(data[: self._left])
                    self._left = None
                    self.cuts += 1
                    await asyncio.sleep(0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    writer.transport.abort()
                    break
                if self._left is not None:
                    self._left -= len(data)
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass  # the client or the server left
        finally:
            sending.cancel()
            for end in (writer, server):
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()

    async def _pass_on(self, reader, server):
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                server.write(data)
                await server.drain()
            server.close()


@asynccontextmanager
async def cutting(port):
    cutter = Cutter(port)
    listening = await asyncio.start_server(cutter.connected, "127.0.0.1", 0)
    async with listening:
        cutter.port = listening.sockets[0].getsockname()[1]
        yield cutter
