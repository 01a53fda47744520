"""Files of the disk tier: a block that is what its name says, or a miss; a record that is whole, or none.

The first byte says which of the two is written, and what of it is mended: without, nothing gets past the checksum.

``python tests/fuzz/fuzz_kv_header.py -runs=100000``
"""

import atexit
import shutil
import tempfile
from pathlib import Path

import xxhash

from chatpager.engine import block_files, block_folder, head_records
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.disk_tier import DiskTier

FOLDER = Path(tempfile.mkdtemp(prefix="chatpager-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
PROOF = BlockProof(bytes(range(32)))
head_records.HeadRecords(FOLDER / "heads", PROOF).write("s", [PROOF])  # or the block would be nobody's
RECORD, NAMED, CHECKED = 1, 2, 4
"""Bits of the first byte."""


def one_input(data: bytes) -> bool:
    """Whether something was found; then the file is exactly what would be written of it."""
    how, raw = (data[0], data[1:]) if data else (0, b"")
    if how & RECORD:
        return _record(_mended(raw, how, head_records.HEADER.size, len(head_records.MAGIC)))
    return _block(_mended(raw, how, block_files.HEADER.size, len(block_files.MAGIC)))


def _mended(raw: bytes, how: int, header: int, magic: int) -> bytes:
    """With the name that is looked for, and the right checksum at the header's end."""
    head, body = bytearray(raw[:header]), raw[header:]
    if len(head) == header:
        if how & NAMED:
            head[magic : magic + len(PROOF)] = PROOF
        if how & CHECKED:
            head[-16:] = xxhash.xxh3_128_digest(body)
    return bytes(head) + body


def _block(raw: bytes) -> bool:
    path = FOLDER / PROOF.hex()[:2] / (PROOF.hex() + block_folder.SUFFIX)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(raw)
    tier = DiskTier(FOLDER, 1 << 20)
    try:
        content = tier.find(PROOF)
        assert path.exists() is (PROOF in tier) is (content is not None)
    finally:
        tier.close()
    if content is not None:
        head = block_files.HEADER.pack(block_files.MAGIC, PROOF, len(content), xxhash.xxh3_128_digest(content))
        assert raw == head + content
    return content is not None


def _record(raw: bytes) -> bool:
    folder = FOLDER / "records"
    folder.mkdir(exist_ok=True)
    named = head_records.HeadRecords(folder, PROOF)
    named._path(named.name_of("s")).write_bytes(raw)
    records = head_records.HeadRecords(folder, PROOF)
    proofs = records.read("s")
    assert all(len(proof) == len(PROOF) and proof in records for proof in proofs)
    assert [chain for chain in records.chains() if chain] == ([proofs] if proofs else [])
    share = records.warm_fraction({PROOF})
    assert (share is not None) is bool(proofs)
    return bool(proofs)


if __name__ == "__main__":
    from atheris_run import fuzz

    fuzz(one_input)
