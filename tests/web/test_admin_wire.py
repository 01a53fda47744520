"""What the admin page believes of the server's objects is what the server's structs say."""

import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from chatpager.engine.block_map import BlockCode
from chatpager.server import wire_admin, wire_tenants

ADMIN = Path(__file__).parent.parent.parent / "web" / "src" / "admin"
INTERFACE = re.compile(r"export interface (\w+) \{\n(.*?)\n\}", re.DOTALL)


def believed():
    text = (ADMIN / "wire.ts").read_text()
    return {name: dict(re.findall(r"^  (\w+): (.+);$", body, re.MULTILINE)) for name, body in INTERFACE.findall(text)}


def written(kind):
    """A Python type as TypeScript has it."""
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return " | ".join(written(part) for part in get_args(kind))
    if get_origin(kind) is Literal:
        return " | ".join(f'"{value}"' for value in get_args(kind))
    if get_origin(kind) is list:
        return written(get_args(kind)[0]) + "[]"
    if get_origin(kind) is dict:
        return f"Record<{', '.join(map(written, get_args(kind)))}>"
    return {str: "string", int: "number", float: "number", bool: "boolean", NoneType: "null"}.get(kind) or kind.__name__


BELIEVED = believed()


@pytest.mark.parametrize("name", sorted(BELIEVED))
def test_an_interface_is_its_struct(name):
    struct = getattr(wire_admin, name, None) or getattr(wire_tenants, name)
    assert issubclass(struct, msgspec.Struct)
    assert {field: written(kind) for field, kind in get_type_hints(struct).items()} == BELIEVED[name]


def test_the_page_names_every_code_of_a_block_in_order():
    text = (ADMIN / "blocks.ts").read_text()
    [names] = re.findall(r"export const CODES = \[(.*?)\] as const", text)
    assert re.findall(r'"(\w+)"', names) == [code.name.lower() for code in BlockCode]
