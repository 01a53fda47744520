"""What a summary stands in place of."""

import pytest

from chatpager.errors import InvalidRequest
from chatpager.sessions.revising import _older
from chatpager.store import NewMessage, text_content


def said(roles):
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [NewMessage(role=names[role], content=text_content(role)) for role in roles]


@pytest.mark.parametrize(
    ("roles", "keep", "older"),
    [
        ("uaua", 0, (0, 4)),
        ("uaua", 1, (0, 2)),
        ("suaua", 1, (1, 3)),
        ("uauata", 1, (0, 2)),  # a call and its result belong to the answer that they led to
        ("uatauattaua", 2, (0, 4)),
        ("uatauattaua", 0, (0, 11)),
    ],
)
def test_calls_and_their_results_are_not_torn_apart(roles, keep, older):
    assert _older(said(roles), keep) == older


@pytest.mark.parametrize(("roles", "keep"), [("uaua", 2), ("uata", 1), ("su", 0)])
def test_nothing_is_older(roles, keep):
    with pytest.raises(InvalidRequest, match="nothing is older"):
        _older(said(roles), keep)
