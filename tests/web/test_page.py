"""What is in git of the page, and what was built of it."""

import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WEB = ROOT / "web"
STATIC = ROOT / "chatpager" / "server" / "static"
BUDGET = 150 * 1024

# Who asks for donations in the lock file, the namespace of SVG, this machine and nobody. No registry is among them.
HOSTS = {"github.com", "opencollective.com", "tidelift.com", "www.w3.org", "127.0.0.1", "here", "elsewhere.test"}

built = pytest.mark.skipif(
    not (STATIC / "index.html").is_file(), reason="the page is not built: python web/hatch_build.py"
)


def files_in_git():
    for path in WEB.rglob("*"):
        if path.is_file() and not {"node_modules", ".cache", "__pycache__"} & set(path.relative_to(WEB).parts):
            yield path


def test_no_file_of_the_page_names_a_registry():
    named = {(host, path.name) for path in files_in_git() for host in re.findall(r"\w+://([\w.-]+)", path.read_text())}
    assert {(host, name) for host, name in named if host not in HOSTS} == set()


def test_the_lock_file_names_versions_and_checksums_and_no_addresses():
    packages = json.loads((WEB / "package-lock.json").read_text())["packages"]
    assert len(packages) > 10
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert name == "" or package["integrity"].startswith("sha512-"), name


def test_every_package_is_asked_for_by_its_exact_version():
    package = json.loads((WEB / "package.json").read_text())
    versions = {**package["dependencies"], **package["devDependencies"]}
    assert {name for name, version in versions.items() if not re.fullmatch(r"\d+\.\d+\.\d+", version)} == set()


def test_no_room_of_the_page_is_too_large():
    sizes = {
        path.name: len(path.read_text().splitlines())
        for path in files_in_git()
        if path.suffix in {".ts", ".tsx", ".css"}
    }
    assert {name: lines for name, lines in sizes.items() if lines > 400 and ".test." not in name} == {}


class Inline(HTMLParser):
    """Collects what a strict content security policy refuses, and what the page links to."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        if tag == "style" or (tag == "script" and "src" not in names) or tag == "base":
            self.refused.append(tag)
        self.refused += [name for name in names if name == "style" or name.startswith("on")]
        self.links += [names[name] for name in ("src", "href") if name in names]


def test_what_the_policy_refuses_would_be_seen():
    page = Inline()
    page.feed(
        '<base href="/"><style>a{}</style><script>1</script><p onclick="x" style="y"><script src="a.js"></script>'
    )
    assert page.refused == ["base", "style", "script", "onclick", "style"]


@built
@pytest.mark.parametrize("name", ["index.html", "admin.html"])
def test_a_built_page_has_nothing_inline_and_links_only_to_its_own_files(name):
    page = Inline()
    page.feed((STATIC / name).read_text())
    assert page.refused == []
    assert len(page.links) >= 3
    for link in page.links:
        assert re.fullmatch(r"\./assets/[\w-]+-[\w-]{8}\.(js|css|svg)", link), link
        assert (STATIC / link).is_file()


@built
def test_the_built_style_and_script_name_no_other_host():
    for path in (STATIC / "assets").glob("*"):
        if path.suffix in {".js", ".css"}:
            hosts = set(re.findall(r"(?:https?|wss?)://([\w.-]+)", path.read_text()))
            assert hosts <= {"www.w3.org", "github.com"}, path  # the latter in what highlight.js would warn of


@built
def test_the_built_page_fits_its_budget():
    served = [path for path in STATIC.rglob("*") if path.is_file() and path.suffix != ".md"]
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in served) <= BUDGET


@built
def test_the_licences_of_what_was_bundled_are_told():
    told = (STATIC / "assets" / "licenses.md").read_text()
    for name in ("preact", "@preact/signals", "markdown-it", "dompurify", "highlight.js"):
        assert f"## {name} - " in told
