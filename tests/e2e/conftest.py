"""The page's tests need the page."""

from pathlib import Path

import pytest

from chatpager.server.routes_ops import STATIC

REASON = "THE PAGE IS NOT BUILT: chatpager/server/static is empty; run `make page` (it needs Node.js or a network)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if (STATIC / "index.html").is_file():
        return
    for item in items:
        if item.path == Path(__file__).with_name("test_page.py"):
            item.add_marker(pytest.mark.skip(reason=REASON))
