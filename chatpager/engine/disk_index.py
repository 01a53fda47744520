"""Which blocks the disk tier has: in files, by when they were used last, or on their way into files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from chatpager.engine.block_hash import BlockProof


class DiskIndex:
    """``files``: proofs and sizes in bytes, the least recently used first. It has no lock of its own."""

    def __init__(self, files: Iterable[tuple[BlockProof, int]]) -> None:
        self.files = OrderedDict(files)
        self.file_bytes = sum(self.files.values())
        """Headers included."""
        self.waiting: dict[BlockProof, bytes] = {}
        """Contents that are to be written."""
        self.waiting_bytes = 0

    def __contains__(self, proof: BlockProof) -> bool:
        return proof in self.files or proof in self.waiting

    def wait(self, proof: BlockProof, content: bytes) -> None:
        """It is to be written."""
        self.waiting[proof] = content
        self.waiting_bytes += len(content)

    def is_waited_for(self, proof: BlockProof, content: bytes) -> bool:
        """False: it was dropped meanwhile, and may be waiting with another content."""
        return self.waiting.get(proof) is content

    def wait_no_more(self, proof: BlockProof) -> None:
        if (content := self.waiting.pop(proof, None)) is not None:
            self.waiting_bytes -= len(content)

    def enter(self, proof: BlockProof, size: int) -> None:
        """It has a file of ``size`` bytes."""
        self.files[proof] = size
        self.file_bytes += size

    def forget(self, proof: BlockProof) -> None:
        """Its file is gone, or goes."""
        self.file_bytes -= self.files.pop(proof, 0)

    def forget_files(self) -> None:
        self.files.clear()
        self.file_bytes = 0

    def drop(self, proof: BlockProof) -> None:
        """It is not here any more, and is not written."""
        self.wait_no_more(proof)
        self.forget(proof)

    def use(self, chain: Sequence[BlockProof]) -> None:
        """A conversation's blocks are the last to go, and the first of them the very last."""
        for proof in reversed(chain):
            if proof in self.files:
                self.files.move_to_end(proof)

    def surplus(self, capacity: int) -> list[BlockProof]:
        """Forget the oldest files until the rest has no more than ``capacity`` bytes; those that are returned must
        go."""
        unwanted: list[BlockProof] = []
        while self.file_bytes > capacity:
            oldest = next(iter(self.files))
            self.forget(oldest)
            unwanted.append(oldest)
        return unwanted
