from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.block_hash import BlockHasher, encode_fields

fields = st.lists(st.tuples(st.text(max_size=4), st.one_of(st.text(max_size=4), st.binary(max_size=4), st.integers())))


@given(fields, fields)
def test_different_fields_have_different_bytes(a, b):
    def typed(items):
        return [(name, type(value), value) for name, value in items]

    assert (encode_fields(a) == encode_fields(b)) == (typed(a) == typed(b))


def test_a_salt_that_looks_like_another_field_is_not_that_field():
    assert encode_fields([("salt", "lora")]) != encode_fields([("lora", "salt")])
    assert encode_fields([("salt", b"1")]) != encode_fields([("salt", "1")])
    assert encode_fields([("salt", "1")]) != encode_fields([("salt", 1)])
    assert encode_fields([("ab", "c")]) != encode_fields([("a", "bc")])


def test_a_chain_is_the_same_after_a_restart():
    """The name of a block depends on nothing random: this value was computed by another process."""
    hasher = BlockHasher([("model", b"m"), ("salt", b"")], 4)
    assert hasher.chain(hasher.root, [1, 2, 3, 4]).hex() == "67320bd8bb2601731d5ef5fe1440a412"


def test_the_root_separates_models_salts_and_block_sizes():
    roots = {
        BlockHasher([("model", b"m"), ("salt", b"")], 16).root,
        BlockHasher([("model", b"n"), ("salt", b"")], 16).root,
        BlockHasher([("model", b"m"), ("salt", b"tenant")], 16).root,
        BlockHasher([("model", b"m"), ("salt", b"")], 32).root,
    }
    assert len(roots) == 4


@given(st.lists(st.integers(0, 2**32 - 1), min_size=8, max_size=8), st.integers(0, 7))
def test_any_changed_token_changes_the_name_of_its_block_and_of_those_behind(tokens, place):
    hasher = BlockHasher([], 4)
    other = [*tokens]
    other[place] ^= 1

    def names(ids):
        first = hasher.chain(hasher.root, ids[:4])
        return [first, hasher.chain(first, ids[4:])]

    before, after = names(tokens), names(other)
    assert [a == b for a, b in zip(before, after, strict=True)] == ([False, False] if place < 4 else [True, False])


def test_a_chain_that_goes_on_behind_a_public_block_has_names_that_no_other_domain_gives():
    public = BlockHasher([("public", "")], 4)
    ann, bob = (BlockHasher([("salt", salt)], 4) for salt in (b"ann", b"bob"))
    name, proof = public.chain(public.root, [1, 2, 3, 4]), public.prove(public.proof, [1, 2, 3, 4])
    behind = [hasher.behind(public, name, proof) for hasher in (ann, bob)]
    for hasher in behind:
        assert (hasher.root, hasher.proof) == (public.root, public.proof)
        assert hasher.chain(hasher.root, [1, 2, 3, 4]) == name
        assert hasher.prove(hasher.proof, [1, 2, 3, 4]) == proof
    assert (behind[0].tenant, behind[1].tenant) == (ann.root, bob.root)
    every = [*behind, public, ann, bob]
    assert len({hasher.chain(name, [5, 6, 7, 8]) for hasher in behind} | {public.chain(name, [5, 6, 7, 8])}) == 3
    assert len({hasher.prove(proof, [5, 6, 7, 8]) for hasher in behind} | {public.prove(proof, [5, 6, 7, 8])}) == 3
    assert len({hasher.chain(hasher.root, [5, 6, 7, 8]) for hasher in every}) == 3
    again = ann.behind(public, name, proof)
    assert again.chain(name, [5, 6, 7, 8]) == behind[0].chain(name, [5, 6, 7, 8])
    assert again.prove(proof, [5, 6, 7, 8]) == behind[0].prove(proof, [5, 6, 7, 8])


def test_the_first_name_behind_a_public_block_is_the_same_after_a_restart():
    public, own = BlockHasher([("public", "")], 4), BlockHasher([("salt", b"s")], 4)
    name, proof = public.chain(public.root, [1, 2, 3, 4]), public.prove(public.proof, [1, 2, 3, 4])
    behind = own.behind(public, name, proof)
    assert behind.chain(name, [5, 6, 7, 8]).hex() == "954168909d47b73fcd75f5a65bb53745"
    assert behind.prove(proof, [5, 6, 7, 8]).hex() == "a3b79de4462cfbe992eee828e2db2b5ac1c94ae0ccbeb6d92233909a69508635"


def test_fewer_bits_make_collisions():
    hasher = BlockHasher([], 1, bits=8)
    names = {hasher.chain(hasher.root, [i]) for i in range(2000)}
    assert len(names) <= 256
    assert all(len(name) == 1 for name in names)
