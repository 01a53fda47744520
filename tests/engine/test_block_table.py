"""A table's list and its array say the same, whatever was done to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.block_table import BlockTable

ids = st.integers(0, 2**31 - 1)
steps = st.one_of(
    st.tuples(st.just("extend"), st.lists(ids, max_size=20)),
    st.tuples(st.just("add"), st.lists(ids, max_size=3)),
    st.tuples(st.just("append"), ids),
    st.tuples(st.just("replace"), st.tuples(st.integers(0, 200), ids)),
    st.tuples(st.just("clear"), st.none()),
)


@given(st.lists(ids, max_size=10), st.lists(steps, max_size=30))
def test_the_array_is_the_list(first, done):
    table, plain = BlockTable(first), list(first)
    for what, with_what in done:
        match what:
            case "extend":
                table.extend(with_what)
                plain.extend(with_what)
            case "add":
                table += with_what
                plain += with_what
            case "append":
                table.append(with_what)
                plain.append(with_what)
            case "replace" if plain:
                place = with_what[0] % len(plain) - (with_what[0] % 2) * len(plain)
                table[place] = plain[place] = with_what[1]
            case "clear":
                table.clear()
                plain.clear()
        assert table == plain == table.array.tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.insert(0, 1), lambda t: t.pop(), lambda t: t.remove(1), lambda t: t.sort(), lambda t: t.reverse(),
        lambda t: t.__delitem__(0), lambda t: t.__imul__(2), lambda t: t.__setitem__(slice(0, 1), [1]),
    ],
)  # fmt: skip
def test_what_would_leave_the_array_behind_is_refused(change):
    table = BlockTable([1, 2])
    with pytest.raises((TypeError, ValueError)):
        change(table)
    assert table == [1, 2] == table.array.tolist()
