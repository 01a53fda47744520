"""One server, a real process with the built-in model, for all tests that do not kill theirs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatpager.server.routes_ops import STATIC
from tests.processes import Server, serving, spawn


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    with serving(spawn, tmp_path_factory.mktemp("server")) as running:
        yield running
        assert running.stop() == 0, running.process.err.text


@pytest.fixture(scope="session")
def server_url(server, request) -> str:
    return server.url


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The page's tests need the page."""
    if (STATIC / "index.html").is_file():
        return
    reason = "THE PAGE IS NOT BUILT: chatpager/server/static is empty; run `make page` (it needs Node.js or a network)"
    for item in items:
        if item.path == Path(__file__).with_name("test_page.py"):
            item.add_marker(pytest.mark.skip(reason=reason))
