"""The folder of the disk tier: one file a block, named by the block's proof, so what a file says it holds is what its
name says. One process has the folder at a time.

A file is written beside its place, synced and renamed, and carries a checksum: one that is short, flipped or foreign is
deleted when it is read. Files are readable for their owner only: keys and values tell what was said.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from chatpager.engine.block_files import BlockFile, Plain
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.whole_file import PART, RUN_OUT, unlink, write_whole

SUFFIX = ".kv"
LOCK = "lock"


class BlockFolder:
    """``path`` is taken for this process; files written in another way than ``form`` are nothing.

    Raises:
        OSError: it cannot be made, or (BlockingIOError) another process has it.
    """

    def __init__(self, path: Path, form: BlockFile) -> None:
        self.path = path
        self._form = form
        self._claim = claim(path)

    def is_there(self) -> bool:
        """False: somebody has deleted it."""
        return os.path.lexists(self.path / LOCK)

    def claim_again(self) -> None:
        """Make it anew where it was deleted. Raises OSError."""
        found = claim(self.path)
        os.close(self._claim)
        self._claim = found

    def let_go(self) -> None:
        """Another process may have it. Raises OSError."""
        os.close(self._claim)

    def path_of(self, proof: BlockProof) -> Path:
        name = proof.hex()
        return self.path / name[:2] / (name + SUFFIX)

    def scan(self) -> Iterator[tuple[BlockProof, int]]:
        """The files that are there with their sizes in bytes, the oldest first; what a crash left half written is
        deleted.

        Raises:
            OSError: the folder cannot be read.
        """
        found: list[tuple[int, BlockProof, int]] = []
        # Path.glob tells nothing of what it cannot list.
        for path in [path for folder in self.path.iterdir() if folder.is_dir() for path in folder.iterdir()]:
            if path.suffix == PART:
                unlink(path)
            elif path.suffix == SUFFIX and (proof := _proof(path.stem)):
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    if not isinstance(self._form, Plain) and not _begins(path, self._form.magic):
                        unlink(path)
                        continue
                    found.append((stat.st_mtime_ns, proof, stat.st_size))
        return ((proof, size) for _, proof, size in sorted(found))

    def read(self, proof: BlockProof) -> tuple[bytes | None, str]:
        """The content of a block, or why its file has none: then it is deleted. Raises OSError where the file is not to
        blame."""
        path = self.path_of(proof)
        try:
            content, problem = self._form.unpack(path.read_bytes(), proof), f"{path} does not hold what its name says"
        except OSError as error:
            if error.errno in RUN_OUT:
                raise
            content, problem = None, str(error)
        if content is None:
            unlink(path)
        return content, problem

    def write(self, proof: BlockProof, content: bytes) -> int:
        """Returns the bytes of the file. Raises OSError, and leaves nothing then."""
        whole = self._form.pack(proof, content)
        write_whole(self.path_of(proof), whole)
        return len(whole)

    def delete(self, proofs: Iterable[BlockProof]) -> None:
        """Those of the files that are there; one that cannot be deleted is logged."""
        for proof in proofs:
            unlink(self.path_of(proof))


def claim(folder: Path) -> int:
    """Make the folder and take it for this process; the descriptor holds the claim.

    Raises:
        OSError: it cannot be made, or (BlockingIOError) another process has it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BlockingIOError(f"another server uses {folder}") from None
    return descriptor


def _proof(name: str) -> BlockProof | None:
    try:
        raw = bytes.fromhex(name)
    except ValueError:
        return None
    return BlockProof(raw) if len(raw) == 32 else None


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False
