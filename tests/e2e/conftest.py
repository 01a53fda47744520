"""The page's tests need the page; some clients are tried on a server in this process, whose engine can be held."""

from pathlib import Path

import pytest

from chatpager.server.routes_ops import STATIC
from tests.e2e.browsing import browser, complaints, page, page_url  # noqa: F401
from tests.serving import empty_database, serve  # noqa: F401

REASON = "THE PAGE IS NOT BUILT: chatpager/server/static is empty; run `make page` (it needs Node.js or a network)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if (STATIC / "index.html").is_file():
        return
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name.startswith("test_page"):
            item.add_marker(pytest.mark.skip(reason=REASON))
