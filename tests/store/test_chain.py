import json as stdlib_json
import struct
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.errors import InvalidRequest
from chatpager.store import chain
from chatpager.store.chain import Names

FIELDS = {"role": "user", "content": b"[]", "status": "completed", "vocab": "v", "token_ids": b"\1\0\0\0"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
parts = st.lists(st.none() | texts | st.binary(max_size=5), max_size=4)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def decode(encoded):
    """The fields of an encoding, by its description alone."""
    fields, at = [], 0
    while at < len(encoded):
        tag, length = encoded[at : at + 1], int.from_bytes(encoded[at + 1 : at + 9], "little")
        data = encoded[at + 9 : at + 9 + length]
        fields.append({b"n": lambda d: None, b"s": bytes.decode, b"b": bytes}[tag](data))
        at += 9 + length
    return fields


@given(parts)
def test_an_encoding_can_be_read_back_so_no_two_lists_of_fields_share_one(fields):
    assert decode(chain.encode(*fields)) == fields


def test_moving_a_boundary_or_changing_a_type_changes_the_encoding():
    lists = [("ab", "c"), ("a", "bc"), ("abc",), (b"ab", "c"), ("ab", "c", None), ("ab", "c", ""), ("ab", "c", b"")]
    assert len({chain.encode(*fields) for fields in lists}) == len(lists)


def test_names_are_what_the_description_says():
    def field(tag, data):
        return tag + struct.pack("<Q", len(data)) + data

    def named(*fields):
        return "b2:" + blake2b(b"".join(field(*f) for f in fields), digest_size=16).hexdigest()

    root = named((b"s", b"tenant"), (b"s", b"ann"))
    content = named((b"s", b"content"), (b"s", root.encode()), (b"s", b"user"), (b"b", b"[]"))
    exact = named(
        (b"s", b"message"), (b"s", root.encode()), (b"s", b"user"), (b"b", b"[]"), (b"s", b"completed"),
        (b"s", b"v"), (b"b", b"\1\0\0\0"),
    )  # fmt: skip
    assert chain.name("ann", None, **FIELDS) == Names(exact, content)


def test_names_do_not_change_from_one_release_to_the_next():
    first = chain.name("ann", None, **FIELDS)
    assert chain.name("ann", first, **FIELDS) == (
        "b2:2d2079b9403523f9ba75e585d56b319f",
        "b2:43a128c2cd9a1ffd99007d038aa98712",
    )


@pytest.mark.parametrize(
    ("field", "other"),
    [("status", "failed"), ("vocab", "w"), ("vocab", None), ("token_ids", b"\2\0\0\0"), ("token_ids", None)],
)
def test_what_a_stateless_client_cannot_know_is_in_the_exact_name_only(field, other):
    one, two = chain.name("ann", None, **FIELDS), chain.name("ann", None, **{**FIELDS, field: other})
    assert one.hash != two.hash
    assert one.content_hash == two.content_hash


@pytest.mark.parametrize(("field", "other"), [("role", "system"), ("content", b"[{}]")])
def test_role_and_content_are_in_both_names(field, other):
    one, two = chain.name("ann", None, **FIELDS), chain.name("ann", None, **{**FIELDS, field: other})
    assert one.hash != two.hash
    assert one.content_hash != two.content_hash


def test_parent_and_tenant_are_in_both_names():
    first = chain.name("ann", None, **FIELDS)
    names = [first, chain.name("ann", first, **FIELDS), chain.name("bob", None, **FIELDS)]
    assert len({n.hash for n in names}) == len({n.content_hash for n in names}) == 3


def test_a_root_is_no_message():
    assert chain.root("ann") not in chain.name("ann", None, **FIELDS)


@given(st.lists(st.dictionaries(texts, json, max_size=3), max_size=3))
def test_the_order_of_keys_does_not_matter_to_canonical_content(content):
    turned = [dict(reversed(part.items())) for part in content]
    assert chain.canonical(content) == chain.canonical(turned)


@given(st.lists(st.dictionaries(texts, json, max_size=3), max_size=3))
def test_canonical_content_says_all_of_the_content(content):
    import json

    assert json.loads(chain.canonical(content)) == content


def test_canonical_content_has_sorted_keys_no_spaces_and_utf8():
    assert chain.canonical([{"type": "text", "text": "é 你"}]) == '[{"text":"é 你","type":"text"}]'.encode()


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(InvalidRequest, match="surrogate"):
        chain.canonical([{"type": "text", "text": "\ud83d"}])


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_token_ids_survive_packing(ids):
    packed = chain.pack(ids)
    assert packed == b"".join(i.to_bytes(4, "little") for i in ids)
    assert chain.unpack(packed) == tuple(ids)


# -- calls, which clients read and write again

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def called(arguments, **more):
    return chain.canonical([{"type": "tool_call", "id": "c1", "name": "search", "arguments": arguments, **more}])


def content_name(content):
    return chain.content_name(chain.root("ann"), "assistant", content)


@given(st.dictionaries(texts, values, max_size=3))
def test_arguments_count_by_their_value_however_a_client_writes_them(value):
    def as_javascript(v):
        if isinstance(v, float) and v.is_integer():
            return int(v)
        if isinstance(v, dict):
            return {k: as_javascript(x) for k, x in reversed(v.items())}
        return [as_javascript(x) for x in v] if isinstance(v, list) else v

    told = content_name(called(stdlib_json.dumps(value)))
    assert told == content_name(called(stdlib_json.dumps(as_javascript(value), indent=2, ensure_ascii=False)))
    assert told != content_name(called(stdlib_json.dumps({**value, "one more": 1})))
    contents = [called(stdlib_json.dumps(value, indent=i)) for i in (1, 2)]
    one, other = (chain.name("ann", None, **{**FIELDS, "content": content}) for content in contents)
    assert one.content_hash == other.content_hash and (one.hash == other.hash) is (value == {})


@pytest.mark.parametrize("arguments", ["", "{", "1e400", "[" * 5000 + "]" * 5000, '{"a": "\\ud800"}'])
def test_arguments_that_are_no_json_count_as_they_are(arguments):
    assert content_name(called(arguments)) != content_name(called(arguments + " "))
    assert content_name(called(arguments)) != content_name(called("{}"))


def test_only_a_call_s_arguments_are_read():
    for part in ({"type": "text", "text": "tool_call", "arguments": "1.0"}, {"type": "tool_call", "arguments": 1.0}):
        other = {**part, "arguments": "1" if part["type"] == "text" else 1}
        mark = [{"type": "tool_call", "arguments": "{}"}]
        assert content_name(chain.canonical([part, *mark])) != content_name(chain.canonical([other, *mark]))
