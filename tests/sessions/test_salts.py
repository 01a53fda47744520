"""Salts keep tenants apart, and the secret they are made of is the server's own."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog

from chatpager.errors import ConfigError
from chatpager.sessions.salts import SECRET_BYTES, Salts, domain_of, server_secret


def test_a_salt_is_the_tenant_s_and_the_secret_s():
    salts = Salts(b"s" * 32)
    assert salts.of("a") == Salts(b"s" * 32).of("a")
    assert len({salts.of("a"), salts.of("b"), salts.of(""), Salts(b"t" * 32).of("a")}) == 4
    assert salts.of("a") != b"a" and len(salts.of("a")) == 32
    assert salts.shown("a") == Salts(b"s" * 32).shown("a") not in salts.of("a").hex()
    assert len({salts.shown("a"), salts.shown("b"), Salts(b"t" * 32).shown("a")}) == 3


def test_the_secret_is_made_once_and_is_the_owner_s(tmp_path):
    folder = tmp_path / "data" / "deep"
    made = server_secret(folder)
    assert len(made) == SECRET_BYTES
    assert server_secret(folder) == made != server_secret(tmp_path / "other")
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600


def test_a_secret_that_others_may_read_is_taken_from_them(tmp_path):
    made = server_secret(tmp_path)
    (tmp_path / "secret").chmod(0o644)
    with structlog.testing.capture_logs() as said:
        assert [server_secret(tmp_path) for _ in range(2)] == [made, made]
    assert [line["problem"] for line in said] == [f"{tmp_path / 'secret'}: others could read it"]
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_of_many_that_start_together_all_have_what_is_kept(tmp_path):
    for round in range(10):
        folder = tmp_path / str(round)
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(lambda _: server_secret(folder), range(8)))  # noqa: B023
        assert found == {(folder / "secret").read_bytes()}
        assert [path.name for path in folder.iterdir()] == ["secret"]


def test_the_domain_of_blocks_tells_secrets_apart_and_no_secret():
    assert domain_of(b"a") == domain_of(b"a") != domain_of(b"b")
    assert domain_of(b"a") != Salts(b"a").of("")


def test_where_it_cannot_be_kept_each_start_has_its_own(tmp_path):
    (tmp_path / "file").write_text("")
    with structlog.testing.capture_logs() as said:
        one, two = (server_secret(tmp_path / "file" / "data") for _ in range(2))
    assert one != two and len(one) == SECRET_BYTES
    assert [line["event"] for line in said] == ["secret", "secret"]
    assert one.hex() not in str(said)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_what_is_no_secret_is_refused(tmp_path, content):
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError, match="no secret of ours"):
        server_secret(tmp_path)


async def test_tenants_share_no_block_and_cannot_tell_what_others_said(rig):
    async with rig(lambda prompt: "yes") as r:
        await r.ask("word " * 20, tenant="one", session=None)
        blocks = len(r.engine.pool.index)
        _, mine = await r.ask("word " * 20, tenant="one")
        _, theirs = await r.ask("word " * 20, tenant="two")
        assert mine.receipt.cached_tokens > 0
        assert (theirs.receipt.cached_tokens, theirs.receipt.miss_reason) == (0, "cold")
        assert len(r.engine.pool.index) == 2 * blocks
        roots = {block.hash for block in r.engine.pool.index.values() if block.parent is None}
        assert len(roots) == 2


def auc(positives, negatives):
    """The chance that one of the first is larger than one of the second (Mann-Whitney)."""
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


PROBES = 100
"""Of each kind: texts that were said or not, asked by the one who said them or by another."""


async def test_what_a_prompt_costs_tells_only_its_own_tenant_whether_it_was_said(rig):
    """Probing by time (Song et al. 2024, arXiv:2409.20002), with the tokens that are computed until the first answer as
    the clock: what a time could tell, they tell without noise."""
    async with rig(lambda prompt: "yes", blocks=6000, max_turns=8) as r:

        async def cost(text, tenant):
            before = len(r.runner.steps)
            turn, _ = await r.ask(text, tenant=tenant, stored=False, max_tokens=1)
            return -sum(count for rows in r.runner.steps[before:] for name, count in rows if name == turn.id)

        texts = [
            f"{i:04} is the number that one of them said and nobody else, word for word" for i in range(4 * PROBES)
        ]
        said, unsaid = texts[::2], texts[1::2]
        for text in said:
            await cost(text, "one")
        within = auc(
            [await cost(text, "one") for text in said[:PROBES]], [await cost(text, "one") for text in unsaid[:PROBES]]
        )
        across = auc(
            [await cost(text, "two") for text in said[PROBES:]], [await cost(text, "two") for text in unsaid[PROBES:]]
        )
    assert within >= 0.9
    assert 0.45 <= across <= 0.55
