"""KV blocks on disk under a key: warm for who has it, and for who has not neither readable nor of any use."""

import sys

import pytest

from chatpager.config import EngineConfig
from chatpager.engine.block_files import HEADER, SEALED, Plain, sealed_by
from chatpager.engine.block_hash import BlockProof
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.open_tiers import open_tiers
from chatpager.errors import ConfigError
from tests.engine.fakes import FakeRunner, answer, make_engine
from tests.engine.tiering import LONG, sources

PROOF, OTHER = BlockProof(bytes(range(32))), BlockProof(bytes(32))
CONTENT = b"what was said " * 50


@pytest.fixture
def key_file(tmp_path):
    """A file with this key in it."""

    def make(key="k" * 32, mode=0o600):
        path = tmp_path / "kv.key"
        path.write_text(key)
        path.chmod(mode)
        return str(path)

    return make


@pytest.fixture
def opened(tmp_path):
    tiers = []

    def make(form=None):
        for tier in tiers:
            tier.close()
        tiers[:] = [DiskTier(tmp_path / "kv", 1 << 20, form=form)]
        return tiers[0]

    yield make
    tiers[0].close()


def written(folder):
    return [path.read_bytes() for path in folder.glob("*/*.kv")]


def test_a_session_is_warm_after_a_restart_with_the_same_key(opened, key_file):
    answer(make_engine(disk=opened(sealed_by(key_file()))), "first", LONG, owner="s")
    again = answer(make_engine(disk=opened(sealed_by(key_file(" " + "k" * 32 + "\n")))), "again", LONG, owner="s")
    assert sources(again) == (0, 0, 36)


def test_nothing_of_a_block_can_be_read_in_its_file(opened, key_file):
    for form, readable in ((Plain(), True), (sealed_by(key_file()), False)):
        tier = opened(form)
        tier.save(PROOF, CONTENT)
        tier.flush()
        [raw] = written(tier.folder)
        assert (CONTENT[:20] in raw) is readable
        assert tier.find(PROOF) == CONTENT
        tier.forget(PROOF)


def test_another_key_finds_nothing_and_takes_nothing_for_it(opened, key_file, caplog):
    answer(make_engine(disk=opened(sealed_by(key_file()))), "first", LONG, owner="s")
    tier = opened(sealed_by(key_file("l" * 32)))
    again = answer(make_engine(disk=tier), "again", LONG, owner="s")
    assert again.usage.cached_tokens == 0
    assert tier.bad_files == 1 and "does not hold what its name says" in caplog.text


def test_who_seals_leaves_nothing_unsealed_and_who_does_not_reads_nothing_sealed(opened, key_file):
    answer(make_engine(disk=opened()), "first", LONG, owner="s")
    tier = opened(sealed_by(key_file()))
    assert written(tier.folder) == [] and len(tier) == 0
    assert answer(make_engine(disk=tier), "again", LONG, owner="s").usage.cached_tokens == 0
    tier.flush()
    assert len(written(tier.folder)) > 3
    assert answer(make_engine(disk=opened()), "third", LONG, owner="s").usage.cached_tokens == 0


def test_whatever_is_changed_in_a_file_it_is_nothing(key_file):
    form = sealed_by(key_file())
    raw = form.pack(PROOF, CONTENT)
    assert form.unpack(raw, PROOF) == CONTENT and form.unpack(raw, OTHER) is None
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        assert form.unpack(bytes(changed), PROOF) is None, place
    for length in range(len(raw)):
        assert form.unpack(raw[:length], PROOF) is None
    assert form.unpack(raw + b"\0", PROOF) is None
    moved = bytearray(raw)
    moved[14:46] = OTHER
    assert form.unpack(bytes(moved), OTHER) is None, "a name is sealed with its content"
    assert form.unpack(Plain().pack(PROOF, CONTENT), PROOF) is Plain().unpack(raw, PROOF) is None
    assert form.unpack(form.pack(PROOF, b""), PROOF) == b""


def test_no_two_files_of_one_block_are_alike(key_file):
    form = sealed_by(key_file())
    first, second = form.pack(PROOF, CONTENT), form.pack(PROOF, CONTENT)
    assert first[SEALED.size :] != second[SEALED.size :]
    assert HEADER.size >= SEALED.size


WRONG = {
    "fewer than 32": {"key": "k" * 31},
    "fewer": {"key": "   \n"},
    "chmod 600": {"mode": 0o640},
    "others may read": {"mode": 0o604},
}


@pytest.mark.parametrize("words", WRONG)
def test_a_key_that_is_none_or_not_ones_own_is_refused(key_file, tmp_path, words):
    config = EngineConfig(kv_dir=str(tmp_path / "kv"), kv_key_file=key_file(**WRONG[words]), swap_space=0)
    with pytest.raises(ConfigError, match=words) as refused:
        open_tiers(config, FakeRunner(), OTHER)
    assert refused.value.name == "kv_key_file" and "k" * 9 not in str(refused.value)
    assert not (tmp_path / "kv").exists()


def test_a_key_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        sealed_by(str(tmp_path / "none"))


def test_without_the_package_the_way_out_is_named(key_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigError, match=r"chatpager\[encryption\]"):
        sealed_by(key_file())
