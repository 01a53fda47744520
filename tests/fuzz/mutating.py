"""Inputs made from others: some bytes changed, or a value in a line of JSON."""

import copy
import json
from random import Random
from typing import Any

ODD = (
    None, True, 0, -1, 2**63, 10**400, 0.5, 1e308, "", "\0", "\u2028", "<|im_end|>", "0", "x" * 300,
    [], {}, [[[]]], {"type": []}, {"type": None}, {"": ""},
)  # fmt: skip
TOKENS = (
    b"\0", b"\xff", b"\n", b" ", b"-", b"+", b"9" * 20, b"9" * 5000, b"0x" + b"f" * 4000, b"e999", b"~", b"%00", b"%ff",
    b'"', b"\\ud800", b"[" * 2000, b'{"a":' * 200, b"=", b"[", b"]", "\N{ARABIC-INDIC DIGIT THREE}".encode(),
)  # fmt: skip


def mutated(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    place = random.randrange(len(lines))
    if random.random() < 0.7:
        try:
            lines[place] = _with_another_value(lines[place], random)
        except (ValueError, RecursionError):
            pass
        else:
            return b"\n".join(lines)
    return _changed(data, random)


def _with_another_value(line: bytes, random: Random) -> bytes:
    """Raises ValueError, RecursionError: it is no JSON, or has nothing in it."""
    value = json.loads(line)
    places = list(_places(value))
    if not places:
        raise ValueError
    holder, key = random.choice(places)
    if random.random() < 0.2:
        del holder[key]
    else:
        other, where = random.choice(places)
        holder[key] = copy.deepcopy(random.choice((*ODD, other[where])))
    return json.dumps(value).encode()


def _places(value: Any) -> Any:
    """Every container in ``value`` with every key or index that it has."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(inner)


def _changed(data: bytes, random: Random) -> bytes:
    start = random.randint(0, len(data))
    end = min(len(data), start + random.randint(0, 8))
    match random.randrange(4):
        case 0:
            new = b""
        case 1:
            new = data[start:end] * 2
        case 2:
            new = bytes([random.randrange(256)])
        case _:
            new = random.choice(TOKENS)
    return data[:start] + new + data[end:]
