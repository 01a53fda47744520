"""Compiled kernels kept as object files: a start that finds them imports no compiler and compiles nothing.

numba could keep what it compiled, too, but must be imported to load that, which takes longer than the loading. LLVM
alone links what is kept here. A file is of one processor, of one version of everything that compiled it and of these
sources; it lies where numba's would (``NUMBA_CACHE_DIR``, beside the sources, or the user's cache folder). One that is
short, flipped or foreign is passed over, and so is one that others could have written.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

DIGEST = 16
ELF = b"\x7fELF\x02\x01"
"""How an object begins for a little-endian machine of 64 bits that has this format, which is all that is read here."""
UNDEFINED, SYMBOLS = 0, 2
"""In ELF: the section of a symbol that is defined elsewhere, and the type of a table of symbols."""
READABLE = 0o644
SETTINGS = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX", "NUMBA_OPT")
"""What changes the code that numba makes."""
NEVER_CALLED = "numba_", "NRT_"
"""What numba's entries call where a kernel raises, and none of ours does: without numba it is not there."""


class Code(NamedTuple):
    """An object and the name of the function in it that C calls."""

    entry: str
    object: bytes


class Linked(NamedTuple):
    """``address`` is a function of the address of a table of int64, as long as ``engine`` lives."""

    address: int
    engine: Any


def folders() -> Iterator[Path]:
    """Where kernels may be kept, the first choice first."""
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(given) / "chatpager"
        return
    yield Path(__file__).parent / "__pycache__"
    home = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if not home.startswith("~"):
        yield Path(home) / "chatpager"


def keep(room: str, name: str, code: Code) -> None:
    """Write a kernel for later starts, where that is possible; elsewhere every start compiles it."""
    if code.object[: len(ELF)] != ELF:
        return
    content = code.entry.encode() + b"\0" + code.object
    for folder in folders():
        file = folder / _file_name(room, name)
        part = file.with_suffix(f".{os.getpid()}")  # two may start at once
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, READABLE), "wb") as opened:
                opened.write(_digest(content) + content)
            part.replace(file)
        except OSError as error:
            log.debug("%s does not keep a kernel: %s", folder, error)
            with suppress(OSError):
                part.unlink()
        else:
            return


def find(room: str, name: str) -> Code | None:
    """What ``keep`` wrote on such a machine."""
    for folder in folders():
        try:
            raw = _read(folder / _file_name(room, name))
        except OSError:
            continue
        content = raw[DIGEST:]
        entry, _, object_code = content.partition(b"\0")
        if object_code and raw[:DIGEST] == _digest(content):
            return Code(entry.decode(), object_code)
    return None


def _read(file: Path) -> bytes:
    """Raises OSError: it is not there, or somebody could have written it who could not write this program."""
    with file.open("rb") as opened:
        for facts in (os.fstat(opened.fileno()), os.stat(file.parent)):
            # In a folder a group may only replace the file, by one of another owner; in a file it could write.
            writers = stat.S_IWOTH if stat.S_ISDIR(facts.st_mode) else stat.S_IWOTH | stat.S_IWGRP
            if facts.st_uid not in _trusted() or facts.st_mode & writers:
                raise PermissionError(f"{file} may be somebody else's")
        return opened.read()


@cache
def _trusted() -> frozenset[int]:
    """Root, who runs this, and whose program it is."""
    return frozenset((0, os.geteuid(), os.stat(__file__).st_uid))


def link(code: Code) -> Linked | None:
    """Ready to be called; None where something is missing that it needs."""
    from llvmlite import binding

    _know(binding)
    for symbol in undefined(code.object):
        if not binding.address_of_symbol(symbol):  # LLVM ends the process where it finds none
            address = _address("abort" if symbol.startswith(NEVER_CALLED) else symbol)
            if address is None:
                return None
            binding.add_symbol(symbol, address)
    target = binding.Target.from_triple(binding.get_process_triple())
    static = platform.machine().lower() in ("x86_64", "amd64")  # as numba asks for it
    machine = target.create_target_machine(reloc="static" if static else "default", codemodel="jitdefault", jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code.object))
    engine.finalize_object()
    address = engine.get_function_address(code.entry)
    return Linked(address, engine) if address else None


def _address(symbol: str) -> int | None:
    """Of what the interpreter and its libraries have."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(None), symbol), ctypes.c_void_p).value
    except AttributeError:
        return None


def undefined(elf: bytes) -> Iterator[str]:
    """Names of what an ELF object of 64 bits calls or reads and does not have."""
    (sections_at,) = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    sections = [struct.unpack_from("<IIQQQQII", elf, sections_at + i * size) for i in range(count)]
    for _, kind, _, _, offset, length, names, _ in sections:
        if kind != SYMBOLS:
            continue
        text = sections[names][4]
        for at in range(offset + 24, offset + length, 24):  # the first stands for none
            name, _, _, section = struct.unpack_from("<IBBH", elf, at)
            if section == UNDEFINED:
                yield elf[text + name : elf.index(b"\0", text + name)].decode()


@cache
def _know(binding: Any) -> None:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()


def _file_name(room: str, name: str) -> str:
    return f"{room}.{name}.{_made_of()}.o"


@cache
def _made_of() -> str:
    """A number of all that a kernel depends on."""
    from llvmlite import binding

    digest = blake2b(digest_size=DIGEST)
    for source in sorted(Path(__file__).parent.glob("cpu_*.py")):
        digest.update(source.read_bytes())
    known = version("numba"), version("llvmlite"), version("numpy"), sys.implementation.cache_tag
    machine = binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    asked = [f"{name}={os.environ.get(name)}" for name in SETTINGS]
    digest.update("\n".join((*known, *machine, *asked)).encode())
    return digest.hexdigest()


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST).digest()
