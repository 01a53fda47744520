"""Files of a model's folder that are there and cannot be used: refused in one line that names them."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatpager.engine import loader
from chatpager.engine.model_digest import READ as PINNED
from chatpager.engine.model_digest import model_digest, require_digest
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import ModelLoadError

NOBODY = 65534
NEEDED = ["config.json", "model.safetensors", "tokenizer.json"]
READ = [*NEEDED, "tokenizer_config.json"]
SECRET = "a line of somebody's secrets"


@contextmanager
def somebody_else():
    """Root may read everything, so it is somebody else meanwhile."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def folder(chat_model):
    """A copy that everybody may read."""
    place = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(chat_model, place / "model")
        for path in (place, *place.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield place / "model"
    finally:
        shutil.rmtree(place)


def use(folder):
    Tokenizer(folder)
    loader.load(folder, device="cpu")


def refusal(folder, name):
    with pytest.raises(ModelLoadError) as caught:
        use(folder)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"cannot load {folder}")
    return str(caught.value)


def test_the_folder_is_good(folder):
    use(folder)
    with somebody_else():
        use(folder)


@pytest.mark.parametrize("name", READ)
def test_a_file_that_may_not_be_read(folder, name):
    use(folder)  # what is imported late is there, whoever asks
    (folder / name).chmod(0)
    with somebody_else():
        said = refusal(folder, name)
    assert "Permission denied" in said or name in said  # of weights safetensors says that they are not there


@pytest.mark.parametrize("name", NEEDED)
def test_a_link_to_nowhere(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to(folder.parent / "gone")
    refusal(folder, name)


@pytest.mark.parametrize("name", NEEDED)
def test_a_link_to_itself_or_to_a_folder(folder, name):
    for target in (name, folder.parent):
        (folder / name).unlink()
        (folder / name).symlink_to(target)
        refusal(folder, name)


@pytest.mark.parametrize("name", READ)
def test_a_link_to_what_is_none_of_the_model_s_tells_nothing_of_it(folder, name):
    outside = folder.parent / "outside"
    outside.write_text(SECRET)
    (folder / name).unlink()
    (folder / name).symlink_to(outside)
    assert SECRET not in refusal(folder, name)


def test_a_link_to_the_file_as_the_hub_s_cache_has_it(folder):
    for name in READ:
        blob = folder.parent / f"blob of {name}"
        (folder / name).rename(blob)
        (folder / name).symlink_to(blob)
    use(folder)


def test_a_model_that_is_pinned_is_served_as_long_as_its_files_are_the_same(folder):
    pinned = model_digest(folder)
    (folder / "README.md").write_text("for people")
    require_digest(folder, pinned.upper())
    require_digest(folder, None)
    for path in sorted(path for pattern in PINNED for path in folder.glob(pattern)):
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(ModelLoadError, match=f"model_sha256 pins: they are {model_digest(folder)}, not {pinned}"):
            require_digest(folder, pinned)
        path.write_bytes(before)
    (folder / "config.json").rename(folder / "generation_config.json")
    assert model_digest(folder) != pinned
