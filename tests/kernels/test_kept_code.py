"""Kernels that were compiled once are there without numba, and nothing else is ever run in their place."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import binding

from chatpager.kernels import cpu_code, cpu_decode, kept_code, store_kv

STORE = "cpu_jit", "store"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Nothing is kept yet."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path / "chatpager"


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """The store kernel, compiled and found again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(tmp_path_factory.mktemp("kept")))
        cpu_code.kernel_of.__wrapped__(*STORE)
        return kept_code.find(*STORE)


def test_what_was_kept_does_what_was_compiled(folder, monkeypatch):
    for owner in ("CFunc", "Linked"):
        fresh = cpu_code.kernel_of.__wrapped__(*STORE)
        assert type(fresh.owner).__name__ == owner
        monkeypatch.setattr(cpu_decode, "kernel", {"store": fresh}.get)
        caches = torch.zeros(2, 3, 8, 2, 4)
        store_kv(*torch.ones(2, 2, 2, 4), *caches, torch.tensor([9, -1]))
        assert caches.sum() == 2 * 8 and (caches[:, 1, 1] == 1).all()


def test_a_start_that_finds_them_does_not_import_numba(folder):
    told = "import sys; from chatpager.kernels.cpu_code import kernel_of; k = kernel_of('cpu_jit', 'store')"
    told += "; print('numba' in sys.modules, type(k.owner).__name__)"

    def start():
        return subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()

    assert [start(), start()] == [["True", "CFunc"], ["False", "Linked"]]


@settings(max_examples=200)
@given(st.data())
def test_a_file_that_is_not_whole_is_passed_over(code, data):
    with TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", home)
        kept_code.keep(*STORE, code)
        [file] = (Path(home) / "chatpager").iterdir()
        raw = bytearray(file.read_bytes())
        if data.draw(st.booleans()):
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del raw[data.draw(st.integers(0, len(raw) - 1)) :]
        file.write_bytes(raw)
        assert kept_code.find(*STORE) is None
        kept_code.keep(*STORE, code)
        assert kept_code.find(*STORE) == code


@pytest.mark.parametrize(("which", "mode", "found"), [
    ("file", 0o646, False), ("file", 0o664, False), ("folder", 0o777, False), ("folder", 0o775, True),
])  # fmt: skip
def test_what_others_can_write_is_passed_over(folder, code, which, mode, found):
    before = os.umask(0o002)
    try:
        kept_code.keep(*STORE, code)
    finally:
        os.umask(before)
    assert kept_code.find(*STORE) == code
    [file] = folder.iterdir()
    (file if which == "file" else folder).chmod(mode)
    assert kept_code.find(*STORE) == (code if found else None)


def test_what_another_user_wrote_is_passed_over(folder, monkeypatch, code):
    kept_code.keep(*STORE, code)
    monkeypatch.setattr(kept_code, "_trusted", lambda: frozenset((12345,)))
    assert kept_code.find(*STORE) is None


def test_a_file_that_is_passed_over_is_written_anew(folder, code):
    kept_code.keep(*STORE, code)
    [file] = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert cpu_code.kernel_of.__wrapped__(*STORE).address
    assert len(file.read_bytes()) == len(whole) and kept_code.find(*STORE)


@pytest.mark.parametrize("changed", ["numba", "llvmlite", "numpy"])
def test_what_another_version_compiled_is_not_found(folder, monkeypatch, code, changed):
    kept_code.keep(*STORE, code)
    monkeypatch.setattr(kept_code, "version", lambda name: "0" if name == changed else version(name))
    monkeypatch.setattr(kept_code, "_made_of", kept_code._made_of.__wrapped__)
    assert kept_code.find(*STORE) is None


@pytest.mark.parametrize("changed", ["get_host_cpu_name", "NUMBA_CPU_NAME", "NUMBA_ENABLE_AVX", "NUMBA_OPT"])
def test_what_another_processor_or_setting_compiled_is_not_found(folder, monkeypatch, code, changed):
    kept_code.keep(*STORE, code)
    if changed.startswith("NUMBA"):
        monkeypatch.setenv(changed, "0")
    else:
        monkeypatch.setattr(binding, changed, lambda: "another")
    monkeypatch.setattr(kept_code, "_made_of", kept_code._made_of.__wrapped__)
    assert kept_code.find(*STORE) is None


def test_what_other_sources_compiled_to_is_not_found(folder, monkeypatch, code, tmp_path):
    kept_code.keep(*STORE, code)
    monkeypatch.setattr(kept_code, "__file__", str(tmp_path / "kept_code.py"))
    monkeypatch.setattr(kept_code, "_made_of", kept_code._made_of.__wrapped__)
    assert kept_code.find(*STORE) is None


def test_an_object_that_needs_what_is_not_there_is_not_linked(code):
    missing = [name for name in kept_code.undefined(code.object) if name.startswith(kept_code.NEVER_CALLED)]
    assert "memcpy" in kept_code.undefined(code.object) and missing
    renamed = code.object.replace(b"memcpy\0", b"memcpX\0")
    assert kept_code.link(kept_code.Code(code.entry, renamed)) is None
    assert kept_code.link(code)


def test_an_object_without_its_entry_is_not_linked(code):
    assert kept_code.link(kept_code.Code("another", code.object)) is None


def test_where_nothing_can_be_written_every_start_compiles(tmp_path, monkeypatch, code):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    kept_code.keep(*STORE, code)
    assert kept_code.find(*STORE) is None


def test_an_object_of_another_format_is_not_kept(folder):
    kept_code.keep(*STORE, kept_code.Code("entry", b"\xcf\xfa\xed\xfe" + bytes(100)))
    assert not folder.exists()


def test_one_that_cannot_be_linked_is_compiled(folder, monkeypatch, code):
    kept_code.keep(*STORE, code)

    def fails(code):
        raise RuntimeError("LLVM is unwell")

    monkeypatch.setattr(kept_code, "link", fails)
    assert cpu_code.kernel_of.__wrapped__(*STORE).address


def test_they_lie_beside_the_sources_or_with_the_user(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", os.path.join(os.sep, "c"))
    beside, home = kept_code.folders()
    assert beside.parent == Path(kept_code.__file__).parent
    assert str(home) == os.path.join(os.sep, "c", "chatpager")
