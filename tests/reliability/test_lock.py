"""What is installed is what was locked: every pinned package has its checksums, but torch and what comes with it; and
an audit that found nothing looked at something."""

import importlib.machinery
import importlib.util
import json
import re
import subprocess
import sys

import pytest

from tests.processes import ROOT

TEXTS = [(ROOT / ".ci" / name).read_text() for name in ("locked.txt", "locked-dev.txt")]
ENTRIES = [entry for text in TEXTS for entry in re.split(r"\n(?=\S)", text.rstrip())[1:]]
BY_VERSION_ALONE = {"torch"}
"""Whose builds differ by machine."""
ENTRY = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def locked():
    return {plain(name): version for text in TEXTS for name, version in ENTRY.findall(text)}


@pytest.fixture(scope="module")
def pinned():
    text = (ROOT / ".ci" / "constraints.txt").read_text()
    return {plain(name): version for name, version in ENTRY.findall(text)}


def test_what_is_locked_is_what_is_pinned(locked, pinned):
    """What other systems and Pythons need besides may be locked and not pinned."""
    assert pinned.keys() - locked.keys() == BY_VERSION_ALONE, "run .ci/lock"
    assert {name: version for name, version in locked.items() if pinned.get(name, version) != version} == {}


def test_every_package_has_checksums_and_no_address_is_in_it():
    for entry in ENTRIES:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
        assert "://" not in entry and "--index" not in entry and "@ " not in entry


def test_a_file_that_is_not_the_locked_one_is_not_installed(tmp_path):
    """By pip itself, from a folder in place of an index."""
    wheel = tmp_path / "idna-3.20-py3-none-any.whl"
    wheel.write_bytes(b"not the one")
    [entry] = [one for one in ENTRIES if one.startswith("idna==")]
    (tmp_path / "one.txt").write_text(entry)
    command = ["install", "--no-index", "--no-deps", "--require-hashes", "--find-links", str(tmp_path), "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command, "--ignore-installed", "-r", str(tmp_path / "one.txt")],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr


def test_the_bill_of_materials_has_what_is_locked(pinned):
    done = subprocess.run([sys.executable, ROOT / ".ci" / "sbom"], capture_output=True, text=True, check=True)
    parts = {part["purl"]: part for part in json.loads(done.stdout)["components"]}
    of_python = {f"pkg:pypi/{name}@{version}" for name, version in ENTRY.findall(TEXTS[0])}
    packages = json.loads((ROOT / "web" / "package-lock.json").read_text())["packages"]
    named = {(path.rpartition("node_modules/")[2], package["version"]) for path, package in packages.items() if path}
    of_npm = {purl for purl in parts if purl.startswith("pkg:npm/")}
    assert parts.keys() - of_npm == of_python | {f"pkg:pypi/torch@{pinned['torch']}"}
    assert {(parts[purl]["name"], parts[purl]["version"]) for purl in of_npm} == named
    assert all(len(parts[purl]["hashes"][0]["content"]) == 128 for purl in of_npm)


# -- the audit --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def audit():
    path = str(ROOT / ".ci" / "audit")
    loader = importlib.machinery.SourceFileLoader("audit", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("audit", loader))
    loader.exec_module(module)
    return module


def said(text, code=0, told=""):
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.stderr.write({told!r}); sys.exit({code})"]


SAFE = {"name": "idna", "version": "3.20", "vulns": []}
FAULTY = {"name": "aiohttp", "version": "3.9", "vulns": [{"id": "CVE-1", "fix_versions": ["3.9.1"]}]}
SKIPPED = {"name": "x", "skip_reason": "not found"}


def test_a_finding_fails_and_so_does_what_was_passed_over(audit, capfd, tmp_path):
    for packages, good in (([SAFE], True), ([SAFE, FAULTY], False), ([SKIPPED], False)):
        report = json.dumps({"dependencies": packages})
        assert audit.audited("these", audit.of_python, said(report, not good), tmp_path) is good
    out, err = capfd.readouterr()
    assert "audited these: 1 findings" in out
    assert "aiohttp 3.9: CVE-1, mended in 3.9.1" in err and "x was not audited" in err
    faulty = json.dumps({"vulnerabilities": {"vite": {"range": "<9", "severity": "high"}}})
    assert not audit.audited("those", audit.of_npm, said(faulty, 1), tmp_path)
    assert audit.audited("those", audit.of_npm, said('{"vulnerabilities": {}}'), tmp_path)


@pytest.mark.parametrize("answer", ["", '{"error": {"code": "ENOTFOUND"}}', "nonsense", "[]", "null"])
def test_nobody_who_answers_is_said_and_is_no_finding(audit, capfd, tmp_path, answer):
    for read in (audit.of_python, audit.of_npm):
        assert audit.audited("these", read, said(answer, 1, "first\nno route to it"), tmp_path)
        err = capfd.readouterr().err
        assert err.startswith("NOT AUDITED: these") and "no route to it" in err
    assert audit.audited("these", audit.of_npm, [str(tmp_path / "no-npm")], tmp_path)
