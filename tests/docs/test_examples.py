"""Every example of the pages is run: Python and shell against a server, settings and frames by who reads them.

What needs another machine, a container engine or a model that is not here is a ``console`` block, and not run.
"""

import ast
import asyncio
import inspect
import json
import os
import subprocess
import sys

import pytest

from chatpager.config_sources import load
from chatpager.demo import model_path
from tests.docs.blocks import PAGES, blocks
from tests.e2e.fetching import package
from tests.processes import ROOT, clean_env, serving

KINDS = {"", "console", "json", "python", "sh", "toml"}


@pytest.fixture(scope="module")
def url(fork_server, tmp_path_factory):
    with serving(fork_server, tmp_path_factory.mktemp("server")) as server:
        yield server.url


def pages(*kinds):
    """The pages that have blocks of these kinds."""
    having = [page for page in PAGES if any((b.kind, b.needs) == kinds for b in blocks(page))]
    return pytest.mark.parametrize("page", having, ids=lambda page: page.stem)


def texts(page, url, kind, needs=""):
    """The page's blocks, made for this server and this machine's models."""
    found = [block.text for block in blocks(page) if (block.kind, block.needs) == (kind, needs)]
    host = url.removeprefix("http://")
    return [text.replace("127.0.0.1:8000", host).replace("path/to/model", str(model_path())) for text in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_of_a_kind_that_is_tried(page):
    assert {block.kind for block in blocks(page)} <= KINDS


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
@pages("python", "")
def test_python(page, url, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for text in texts(page, url, "python"):
        code = compile(text, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        made = eval(code, {"__name__": page.stem})
        if inspect.iscoroutine(made):
            asyncio.run(made)


FETCHED = [(page, needs) for page in PAGES for needs in sorted({b.needs for b in blocks(page)} - {""})]


@pytest.mark.parametrize(("page", "needs"), FETCHED, ids=lambda value: getattr(value, "stem", value))
def test_python_of_other_packages(page, needs, url, tmp_path):
    folder = package(needs)
    env = clean_env(tmp_path, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]))
    for text in texts(page, url, "python", needs):
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pages("sh", "")
def test_shell(page, url, tmp_path):
    script = "set -eu -o pipefail\n" + "\n".join(texts(page, url, "sh"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("chatpager", "-m chatpager "), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        (programs / name).chmod(0o755)
    env = clean_env(tmp_path, PATH=f"{programs}:{os.environ['PATH']}", CHATPAGER_URL=url)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pages("toml", "")
def test_settings(page, url, tmp_path):
    (tmp_path / "key").write_text("a key")
    (tmp_path / "key").chmod(0o600)
    for text in texts(page, url, "toml"):
        file = tmp_path / "chatpager.toml"
        file.write_text(text.replace("/run/secrets/chatpager", str(tmp_path / "key")))
        assert load(file=str(file), env={}).sources


@pages("json", "")
def test_frames(page, url):
    for text in texts(page, url, "json"):
        assert isinstance(json.loads(text), dict)
