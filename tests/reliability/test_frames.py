"""Frames and bodies that say more than they are, or are more than they say: refused before they cost anything."""

import asyncio
import gzip
import json
import tracemalloc
import zlib

import pytest
from aiohttp.http_parser import DeflateBuffer

from chatpager.errors import InvalidRequest, RequestTooLarge
from chatpager.server import packed
from tests.gate import DEADLINE
from tests.server.stalling import UPGRADE

LIMIT = 4096
TEXT, CONTINUATION, LAST, MASK, COMPRESSED = 0x01, 0x00, 0x80, 0x80, 0x40
NO_MASK = bytes(4)
CHUNKS = 4 << 20
"""Bytes that aiohttp's own buffers may take on both sides, whatever comes."""
CREATE = b'{"type": "response.create", "input": "' + b"a" * 40


def header(first, length):
    return bytes([first, MASK | 127]) + length.to_bytes(8, "big") + NO_MASK


def short(first, payload):
    return bytes([first, MASK | len(payload)]) + NO_MASK + payload


MALICE = {
    "a length of 2^63": (header(LAST | TEXT, 2**63), 1009),
    "a length of 2^63 - 1": (header(LAST | TEXT, 2**63 - 1), 1009),
    "a length of 2^64 - 1": (header(LAST | TEXT, 2**64 - 1), 1009),
    "a length over the limit": (header(LAST | TEXT, LIMIT + 1), 1009),
    "a fragment of 2^63": (short(TEXT, b"{") + header(CONTINUATION, 2**63), 1009),
    "ten thousand fragments": (short(TEXT, b"{") + short(CONTINUATION, b" ") * 10_000, 1009),
    "compression that was not agreed on": (short(LAST | COMPRESSED | TEXT, b"\x00\x00"), 1002),
    "a fragment of nothing before it": (short(LAST | CONTINUATION, b"{}"), 1002),
    "a ping over 125 bytes": (header(LAST | 0x09, 126), 1002),
    "a fragmented ping": (short(0x09, b""), 1002),
    "an unknown kind of frame": (short(LAST | 0x03, b""), 1002),
    "text that is no UTF-8": (short(LAST | TEXT, b'{"type": "\xff"}'), 1007),
    "half of a surrogate pair in UTF-8": (short(LAST | TEXT, b'{"type": "\xed\xa0\x80"}'), 1007),
    "a character that is cut off": (short(LAST | TEXT, b'"\xf0\x9f\x98'), 1007),
}


async def close_code(server, sent, frames=None):
    """What the server closes with when these bytes come on a socket; ``frames``: the last frame before, by its kind."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(UPGRADE)
    async with asyncio.timeout(DEADLINE):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ") and b"extensions" not in head.lower()
        writer.write(sent)
        while True:
            kind, size = await reader.readexactly(2)
            size = int.from_bytes(await reader.readexactly(2), "big") if size == 126 else size
            payload = await reader.readexactly(size)
            if kind == LAST | 0x08:
                break
            if frames is not None:
                frames[kind] = payload
    writer.transport.abort()
    return int.from_bytes(payload[:2], "big")


@pytest.mark.parametrize(("sent", "code"), MALICE.values(), ids=MALICE)
async def test_a_frame_that_cannot_be_ends_its_socket_and_no_other(serve, sent, code):
    async with serve(max_message_bytes=LIMIT) as server, server.socket() as neighbour:
        assert await close_code(server, sent) == code
        await neighbour.create("Hello")
        assert (await neighbour.rest())[-1]["type"] == "response.incomplete"


async def test_fragments_of_nothing_add_up_to_nothing(serve):
    """However many there are; the text that they are of is read when it is whole."""
    async with serve(max_message_bytes=LIMIT) as server:
        empty = short(TEXT, b"") + short(CONTINUATION, b"") * 10_000 + short(LAST | CONTINUATION, b"{}")
        frames = {}
        assert await close_code(server, empty + short(LAST | CONTINUATION, b"{}"), frames) == 1002
        assert b"unsupported_event" in frames[LAST | TEXT]


async def test_compression_is_not_offered_to_who_asks_for_it(server):
    head = UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 ") and b"extensions" not in answer.lower()
    writer.transport.abort()


async def peak(asking):
    """The answer, and the bytes that were taken meanwhile at the most."""
    tracemalloc.start()
    try:
        return await asking, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("factor", [100, 1000])
async def test_a_body_that_unpacks_to_more_than_is_taken(serve, factor):
    """It is read no further than the limit, however little was sent."""
    limit = 1 << 16
    bomb = gzip.compress(b'{"input": "' + b"a" * limit * factor)
    async with serve(max_message_bytes=limit) as server:
        packed = {"Content-Encoding": "gzip"}
        answer, most = await peak(server.post("/v1/responses", bomb, headers=packed))
        assert answer.refusal == (413, "request_too_large", None)
        assert most < CHUNKS
        fine = gzip.compress(json.dumps({"input": "Hello", "max_output_tokens": 1}).encode())
        assert (await server.post("/v1/responses", fine, headers=packed)).status == 200


@pytest.mark.parametrize(
    "sent", [short(TEXT, CREATE) + short(CONTINUATION, b"a" * 100) * 5000, header(LAST | TEXT, 2**40) + bytes(1 << 19)]
)
async def test_what_is_too_large_is_not_gathered_first(serve, sent):
    limit = 1 << 14
    async with serve(max_message_bytes=limit) as server:
        code, most = await peak(close_code(server, sent))
        assert code == 1009
        assert most < len(sent) + 32 * limit


@pytest.mark.parametrize(("path", "code"), [("/v1/responses", "invalid_api_key"), ("/v1/login", "request_too_large")])
async def test_what_is_refused_is_not_unpacked_while_the_rest_of_it_is_waited_for(serve, monkeypatch, path, code):
    """Three hundred kilobytes without a key stopped everything for two seconds and a half."""
    by_aiohttp, sizes = [], []

    def noted(body, how, most):
        sizes.append(most)
        return unpack(body, how, most)

    unpack = packed._unpacked
    monkeypatch.setattr(packed, "_unpacked", noted)
    monkeypatch.setattr(DeflateBuffer, "feed_data", lambda self, chunk, size: by_aiohttp.append(size) or True)
    bomb = gzip.compress(b'{"key": "' + b"a" * (8 << 20))
    async with serve(api_key="secret") as server:
        assert (await server.post(path, bomb, headers={"Content-Encoding": "gzip"})).refusal[1] == code
        assert (await server.get("/health")).status == 200
    assert by_aiohttp == [] and sizes == ([16 << 10] if path == "/v1/login" else [])


def test_a_packed_body_is_what_it_says():
    raw = b"abc" * 1000
    plain = zlib.compressobj(wbits=-15)
    forms = {
        ("gzip", gzip.compress(raw)): raw,
        ("gzip", gzip.compress(raw) + gzip.compress(b"d")): raw + b"d",
        ("deflate", zlib.compress(raw)): raw,
        ("deflate", plain.compress(raw) + plain.flush()): raw,
        ("gzip", b""): b"",
    }
    for (how, body), found in forms.items():
        assert packed._unpacked(body, how, len(found)) == found
        if found:
            with pytest.raises(RequestTooLarge):
                packed._unpacked(body, how, len(found) - 1)
    for body in (b"nonsense", gzip.compress(raw)[:-1], gzip.compress(raw) + b"x", gzip.compress(b"") * 65):
        with pytest.raises(InvalidRequest, match="does not agree"):
            packed._unpacked(body, "gzip", 4000)
