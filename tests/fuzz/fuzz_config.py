"""Settings: a file, and behind a NUL the variables, one a line. They are taken, or one of them is named.

``python tests/fuzz/fuzz_config.py -runs=100000``
"""

import atexit
import shutil
import tempfile
from pathlib import Path

from chatpager.config import Config
from chatpager.config_sources import load
from chatpager.errors import ConfigError

FOLDER = Path(tempfile.mkdtemp(prefix="chatpager-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
DEVICES = (b"/dev", b"/proc", b"/sys")
"""Files that may never end: what is in them is no concern of this test's."""


def one_input(data: bytes) -> bool:
    """Whether it was taken."""
    if any(device in data for device in DEVICES):
        return False
    text, _, variables = data.partition(b"\0")
    file = FOLDER / "chatpager.toml"
    file.touch(0o600)
    file.write_bytes(text)
    given = (line.partition("=") for line in variables.replace(b"\0", b"").decode(errors="surrogateescape").split("\n"))
    env = {"HOME": str(FOLDER), **{name: value for name, found, value in given if found}}
    try:
        config = load(file=None if "CHATPAGER_CONFIG" in env else str(file), env=env)
        config.store.resolved_data_dir()
    except ConfigError:
        return False
    assert isinstance(config, Config)
    return True


if __name__ == "__main__":
    from atheris_run import fuzz

    fuzz(one_input)
