"""A published prefix is everybody's; what stands behind it is its tenant's alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatpager.engine.block_hash import BlockHasher
from chatpager.engine.disk_tier import DiskTier
from chatpager.engine.heads import Strength
from chatpager.engine.messages import DraftRequest, LeaseRequest, PublishPrefix
from chatpager.engine.published import OWNER, PublishedPrefixes, owner_of
from chatpager.errors import InvalidRequest
from tests.engine.fakes import VOCAB, answer, make_engine, request, run, step
from tests.engine.tiering import flood, sources

HEAD = list(range(700, 720))
"""Five blocks."""
REST = [7, 8, 9, 10, 11, 12, 13, 14, 15]
ANN, BOB = b"ann", b"bob"


def publish(engine, tokens=HEAD, label="head", *, compute=True):
    prefix = engine.publish(PublishPrefix(label=label, token_ids=list(tokens)))
    if compute:
        answer(engine, f"publish {label}", tokens, 1)
    return prefix


def behind(engine, prefix):
    """Names and proofs of the full cached blocks that stand behind a prefix, by the first block's."""
    return {(b.hash, b.proof) for b in engine.pool.index.values() if b.depth >= prefix.blocks and not b.is_tail}


class TestRegistry:
    def make(self, size=4):
        return PublishedPrefixes(BlockHasher([("public", "")], size), VOCAB)

    def test_a_prompt_must_begin_with_all_of_it(self):
        prefixes = self.make()
        head = prefixes.publish("head", HEAD)
        assert prefixes.longest([*HEAD, 1]) is prefixes.longest(HEAD) is head
        assert prefixes.longest(HEAD[:19]) is None
        assert prefixes.longest([*HEAD[:16], 1, *HEAD[17:]]) is None
        assert prefixes.longest([1, *HEAD]) is None
        assert prefixes.longest([]) is None

    def test_the_longest_counts_and_the_shorter_again_once_it_is_withdrawn(self):
        prefixes = self.make()
        short, long = prefixes.publish("short", HEAD[:8]), prefixes.publish("long", HEAD)
        other = prefixes.publish("other", [*HEAD[:8], 1, 2, 3, 4])
        assert prefixes.longest([*HEAD, 1]) is long
        assert prefixes.longest(HEAD[:16]) is short
        assert prefixes.longest([*HEAD[:8], 1, 2, 3, 4, 5]) is other
        assert prefixes.withdraw("long") is long
        assert prefixes.longest([*HEAD, 1]) is short
        assert prefixes.withdraw("short") is short
        assert prefixes.longest([*HEAD, 1]) is None
        assert prefixes.longest([*HEAD[:8], 1, 2, 3, 4, 5]) is other

    def test_of_two_labels_with_the_same_tokens_the_first_counts(self):
        prefixes = self.make()
        first, second = prefixes.publish("first", HEAD), prefixes.publish("second", HEAD)
        assert (first.names, first.proofs) == (second.names, second.proofs)
        assert prefixes.longest(HEAD) is first
        prefixes.withdraw("first")
        assert prefixes.longest(HEAD) is second

    def test_to_publish_again_changes_nothing(self):
        prefixes = self.make()
        head = prefixes.publish("head", HEAD)
        assert prefixes.publish("head", HEAD) is head
        assert list(prefixes) == [head]
        assert prefixes.withdraw("head") is head
        assert prefixes.withdraw("head") is None
        assert prefixes.longest(HEAD) is None

    @pytest.mark.parametrize(
        ("label", "tokens", "says"),
        [
            ("other", [], "0 tokens are no whole blocks of 4"),
            ("other", HEAD[:7], "7 tokens are no whole blocks of 4"),
            ("other", [1, 2, 3, VOCAB], "outside"),
            ("other", [1, 2, 3, -1], "outside"),
            ("head", HEAD[:8], "has other tokens"),
        ],
    )
    def test_what_is_refused_changes_nothing(self, label, tokens, says):
        prefixes = self.make()
        head = prefixes.publish("head", HEAD)
        with pytest.raises(InvalidRequest, match=says):
            prefixes.publish(label, tokens)
        assert list(prefixes) == [head]
        assert prefixes.longest(HEAD) is head

    @given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1, max_size=12), st.data())
    def test_it_finds_what_a_look_at_each_of_them_finds(self, published, data):
        prefixes = self.make(size=1)
        for i, tokens in enumerate(published):
            prefixes.publish(str(i), tokens)
        for label in data.draw(st.sets(st.sampled_from(range(len(published))))):
            prefixes.withdraw(str(label))
        prompt = data.draw(st.lists(st.integers(0, 1), max_size=7))
        candidates = [p for p in prefixes if tuple(prompt[: p.blocks]) == p.token_ids]
        found = prefixes.longest(prompt)
        assert (found.token_ids if found else None) == max((p.token_ids for p in candidates), key=len, default=None)


class TestSharing:
    def test_another_tenant_finds_the_published_tokens_and_not_one_more(self):
        for published in (True, False):
            engine = make_engine(num_blocks=100)
            if published:
                publish(engine)
            first = answer(engine, "ann", [*HEAD, *REST], owner="a", salt=ANN)
            second = answer(engine, "bob", [*HEAD, *REST], owner="b", salt=BOB)
            again = answer(engine, "bob again", [*HEAD, *REST], owner="b", salt=BOB)
            assert first.usage.cached_tokens == second.usage.cached_tokens == (20 if published else 0)
            assert again.usage.cached_tokens == 28
            assert (second.usage.published, second.usage.published_tokens) == (("head", 20) if published else (None, 0))

    def test_a_prompt_that_ends_in_it_shares_nothing_of_it(self):
        engine = make_engine()
        publish(engine)
        usage = answer(engine, "ann", [*HEAD[:16], 1], salt=ANN).usage
        assert (usage.cached_tokens, usage.published_tokens) == (0, 0)

    def test_a_prompt_that_is_it_computes_its_last_token(self):
        engine = make_engine()
        publish(engine)
        assert answer(engine, "ann", HEAD, salt=ANN).usage.cached_tokens == 19

    @pytest.mark.parametrize("common", [1, 3, 6])
    def test_not_one_token_more_is_shared(self, common):
        """What would be copied of a block is its tenant's too, the first one behind the border included."""
        engine = make_engine()
        publish(engine)
        answer(engine, "ann", [*HEAD, *range(1, 9)], salt=ANN)
        prompt = [*HEAD, *range(1, 1 + common), 99]
        assert answer(engine, "bob", prompt, salt=BOB).usage.cached_tokens == 20
        assert answer(engine, "ann again", prompt, salt=ANN).usage.cached_tokens == 20 + common

    def test_a_tenant_may_compute_it_for_all(self):
        engine = make_engine()
        publish(engine, compute=False)
        assert answer(engine, "ann", [*HEAD, 1], salt=ANN).usage.cached_tokens == 0
        assert answer(engine, "bob", [*HEAD, 1], salt=BOB).usage.cached_tokens == 20
        assert len(engine.leases.heads[owner_of("head")].chain) == 5

    def test_who_asks_for_it_while_another_computes_it_waits(self):
        engine = make_engine(max_tokens=8)
        publish(engine, compute=False)
        engine.add(request("ann", [*HEAD, 1], salt=ANN), 0.0)
        step(engine)
        engine.add(request("bob", [*HEAD, 2], salt=BOB), 0.0)
        _, finals = run(engine)
        assert finals["bob", 0].usage.cached_tokens == 20

    def test_from_host_memory(self):
        for published in (True, False):
            engine = make_engine(num_blocks=17, host_blocks=100)
            if published:
                publish(engine)
            answer(engine, "ann", [*HEAD, *REST], owner="a", salt=ANN)
            flood(engine)
            got = sources(answer(engine, "bob", [*HEAD, *REST], owner="b", salt=BOB))
            assert got == ((0, 20, 0) if published else (0, 0, 0))

    @pytest.mark.parametrize("published", [True, False])
    def test_from_disk_after_a_restart(self, disk, published):
        engine = make_engine(disk=disk())
        if published:
            publish(engine)
        answer(engine, "ann", [*HEAD, *REST], owner="a", salt=ANN)
        engine.close()
        later = make_engine(disk=disk())
        if published:
            publish(later, compute=False)
            assert later.sessions.cache_of(owner_of("head"), 0.0).disk_tokens == 20
        got = sources(answer(later, "bob", [*HEAD, *REST], owner="b", salt=BOB))
        assert got == ((0, 0, 20) if published else (0, 0, 0))
        if published:
            assert later.sessions.cache_of(owner_of("head"), 0.0).device_tokens == 20

    def test_samples_and_what_somebody_is_writing_share_it(self):
        engine = make_engine(num_blocks=100)
        prefix = publish(engine)
        engine.add(request("ann", [*HEAD, *REST], 3, salt=ANN, n=3), 0.0)
        run(engine)
        engine.draft(DraftRequest(owner="w", prompt_token_ids=[*HEAD, *REST], salt=BOB), 0.0)
        run(engine)
        usage = answer(engine, "bob", [*HEAD, *REST], 1, salt=BOB).usage
        assert (usage.cached_tokens, usage.draft_tokens) == (28, 8)
        assert len(behind(engine, prefix)) == 4

    def test_what_a_draft_computed_of_it_is_no_other_tenants_draft(self):
        engine = make_engine()
        publish(engine, compute=False)
        engine.draft(DraftRequest(owner="w", prompt_token_ids=[*HEAD, *REST], salt=ANN), 0.0)
        run(engine)
        usage = answer(engine, "bob", [*HEAD, *REST], salt=BOB).usage
        assert (usage.cached_tokens, usage.draft_tokens) == (20, 0)

    def test_a_conversation_is_expected_behind_it(self):
        engine = make_engine(num_blocks=17, host_blocks=100)
        publish(engine)
        answer(engine, "ann", [*HEAD, *REST], owner="a", salt=ANN)
        flood(engine)
        engine.cache.tiers.times.compute.add(1.0)
        for owner in [owner for owner in engine.leases.heads if owner.startswith("flood")]:
            engine.sessions.close(owner)
        assert engine.prefetch(request("soon", [*HEAD, *REST], owner="a", salt=ANN), 0.0) == 28

    def test_a_shorter_one_ends_where_it_ends(self):
        engine = make_engine(num_blocks=100)
        publish(engine, HEAD[:8], "short")
        publish(engine)
        answer(engine, "ann", [*HEAD[:16], 1], salt=ANN)
        assert answer(engine, "bob", [*HEAD[:16], 1], salt=BOB).usage.cached_tokens == 8
        assert answer(engine, "bob too", [*HEAD, 1], salt=BOB).usage.cached_tokens == 20

    def test_without_a_cache_there_is_nothing_to_share(self):
        engine = make_engine(caching=False)
        publish(engine)
        assert answer(engine, "ann", [*HEAD, 1], salt=ANN).usage.cached_tokens == 0


class TestHead:
    def test_its_blocks_are_not_cold_and_not_in_any_session(self):
        engine = make_engine(num_blocks=30)
        prefix = publish(engine)
        assert prefix.owner.startswith(OWNER)
        assert [b.heads for b in engine.pool.index.values()] == [1] * 5
        for i in range(20):  # of no session: cold blocks go before those of a head
            answer(engine, f"other{i}", range(20 * i, 20 * i + 20), 1)
        assert engine.leases.heads[prefix.owner].resident() == 5

    def test_it_can_be_leased(self):
        engine = make_engine(num_blocks=40, max_model_len=44)
        prefix = publish(engine)
        lease = LeaseRequest(owner=prefix.owner, strength=Strength.HARD, ttl=60)
        assert engine.lease(lease, 0.0).tokens == 20
        flood(engine)
        assert engine.leases.heads[prefix.owner].resident() == 5
        assert engine.sessions.withdraw("head")
        assert engine.pool.leased == 0

    def test_its_lease_counts_for_no_tenant(self):
        engine = make_engine(num_blocks=40, max_model_len=40)
        prefix = publish(engine)
        answer(engine, "ann", [*HEAD, *REST], owner="a", salt=ANN)
        for owner in (prefix.owner, "a"):
            engine.lease(LeaseRequest(owner=owner, strength=Strength.HARD, ttl=60), 0.0)
        assert len(engine.leases.leased_by_tenant()) == 2
        assert engine.leases.heads["a"].tenant == engine._intake.hasher(ANN).tenant

    def test_a_withdrawn_one_is_dead_unless_a_session_has_it(self, disk):
        tier = disk()
        engine = make_engine(num_blocks=40, disk=tier)
        publish(engine)
        tier.flush()
        assert len(tier) == 5
        assert engine.sessions.withdraw("head") and not engine.sessions.withdraw("head")
        assert all(b.heads == 0 for b in engine.pool.index.values())
        tier.flush()
        assert len(tier) == 0
        publish(engine, label="again")
        answer(engine, "ann", [*HEAD, *REST], owner="a", salt=ANN)
        engine.sessions.withdraw("again")
        tier.flush()
        assert len(tier) >= 7
        engine.close()

    def test_what_runs_keeps_its_names_when_it_is_published_and_when_it_is_withdrawn(self):
        engine = make_engine(num_blocks=100)
        engine.add(request("before", [*HEAD, *REST], 8, owner="a", salt=ANN), 0.0)
        step(engine, 2)
        publish(engine)
        assert answer(engine, "ann", [*HEAD, *REST], salt=ANN).usage.cached_tokens == 20
        engine.add(request("during", [*HEAD, *REST], 8, owner="b", salt=BOB), 0.0)
        step(engine, 2)
        engine.sessions.withdraw("head")
        _, finals = run(engine)
        assert finals["before", 0].usage.published is None
        assert finals["during", 0].usage.published == "head"
        assert owner_of("head") not in engine.leases.heads
        assert answer(engine, "after", [*HEAD, *REST], salt=BOB).usage.cached_tokens == 0

    def test_another_one_under_the_label_of_one_that_a_turn_runs_with(self):
        engine = make_engine(num_blocks=100)
        publish(engine)
        engine.add(request("during", [*HEAD, *REST], 8, salt=ANN), 0.0)
        step(engine, 2)
        engine.sessions.withdraw("head")
        publish(engine, range(600, 608), compute=False)
        run(engine)
        assert owner_of("head") not in engine.leases.heads

    def test_a_longer_one_and_one_of_the_same_tokens_bring_the_blocks_of_all(self):
        engine = make_engine(num_blocks=100)
        for label, tokens in (("short", HEAD[:8]), ("same", HEAD), ("head", HEAD)):
            publish(engine, tokens, label, compute=False)
        answer(engine, "ann", [*HEAD[:19], 1], salt=ANN)
        assert list(engine.leases.heads) == [owner_of("short")]
        answer(engine, "bob", [*HEAD, 1], salt=BOB)
        assert {owner: len(head.chain) for owner, head in engine.leases.heads.items()} == {
            owner_of("short"): 2, owner_of("same"): 5, owner_of("head"): 5
        }  # fmt: skip

    def test_what_was_lost_of_it_is_its_head_s_again(self):
        engine = make_engine(num_blocks=17)
        prefix = publish(engine)
        flood(engine)
        assert engine.leases.heads[prefix.owner].resident() < 5
        answer(engine, "ann", [*HEAD, 1], salt=ANN)
        assert engine.leases.heads[prefix.owner].resident() == 5


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    published=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=6), min_size=1, max_size=3),
    turns=st.lists(st.tuples(st.integers(0, 3), tokens), min_size=1, max_size=6),
)
def test_no_block_behind_a_published_prefix_is_two_tenants(published, turns, tmp_path_factory):
    """Both tenants ask the same things, of few words: what they have in common stands in a published prefix, by its
    names, by its proofs, and by the files on the disk."""
    folder = tmp_path_factory.mktemp("kv")
    engine = make_engine(num_blocks=400, block_size=2, disk=DiskTier(folder, 1 << 20))
    heads = [head[: len(head) // 2 * 2] for head in published]
    for i, head in enumerate(heads):
        publish(engine, head, str(i), compute=False)
    public = {name for prefix in engine.published for name in (*prefix.names, *prefix.proofs)}
    prompts = [[*(heads[i] if i < len(heads) else []), *tail] for i, tail in turns]
    of = {ANN: set(), BOB: set()}
    for i, prompt in enumerate(prompts):
        for tenant in of:
            owner = f"{i} of {tenant}"
            answer(engine, owner, prompt, 2, owner=owner, salt=tenant)
            head = engine.leases.heads[owner]
            of[tenant] |= {*head.proofs, *(block.hash for block, _ in head.chain)}
    engine.close()
    common = of[ANN] & of[BOB]
    assert common <= public
    assert bool(common) == any(prompt[: len(head)] == head for prompt in prompts for head in heads)
    on_disk = {bytes.fromhex(path.stem) for path in folder.glob("*/*.kv")}
    assert on_disk == {proof for proof in of[ANN] | of[BOB] if len(proof) == 32}
