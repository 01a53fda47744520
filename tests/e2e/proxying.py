"""An HTTP proxy as people put before a server: it gathers what comes, unless it is told not to, and takes a server that
says nothing for ``idle`` seconds for dead."""

import asyncio
from contextlib import asynccontextmanager, suppress

UNBUFFERED = b"x-accel-buffering: no"


class Proxy:
    def __init__(self, port, idle):
        self._port, self._idle = port, idle
        self.cut = 0
        """Connections that were taken for dead."""

    async def connected(self, reader, writer):
        upstream, server = await asyncio.open_connection("127.0.0.1", self._port)
        sending = asyncio.create_task(self._pass_on(reader, server))
        try:
            head = await upstream.readuntil(b"\r\n\r\n")
            gathered, gathers = [head], UNBUFFERED not in head.lower()
            while data := await self._next(upstream):
                gathered.append(data)
                if not gathers:
                    await self._give(gathered, writer)
            await self._give(gathered, writer)
        finally:
            sending.cancel()
            for end in (server, writer):
                end.close()

    async def _next(self, upstream):
        try:
            return await asyncio.wait_for(upstream.read(1 << 16), self._idle)
        except TimeoutError:
            self.cut += 1
            return b""

    async def _give(self, gathered, writer):
        writer.write(b"".join(gathered))
        gathered.clear()
        await writer.drain()

    async def _pass_on(self, reader, server):
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                server.write(data)
                await server.drain()


@asynccontextmanager
async def proxied(port, idle):
    """``proxy.url`` leads to the port."""
    proxy = Proxy(port, idle)
    listening = await asyncio.start_server(proxy.connected, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening:
        yield proxy
