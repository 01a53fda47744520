"""A file system with little room, where one may be mounted."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Its folder; ``pytest.mark.parametrize("small_disk", [KiB], indirect=True)`` for more than a quarter of a MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    size = f"size={getattr(request, 'param', 256)}k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("NOT TESTED on a disk without room: only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
