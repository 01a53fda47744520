"""Both lower tiers together, and what they do for sessions and for requests that give way."""

import pytest

from chatpager.config import EngineConfig
from chatpager.engine.heads import Strength
from chatpager.engine.host_tier import ENTRY_BYTES
from chatpager.engine.messages import LeaseRequest
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.open_tiers import most_contents, open_tiers
from chatpager.engine.reading import Reading, Source
from chatpager.engine.tiers import Demoted, Tiers
from chatpager.errors import ConfigError
from tests.engine.fakes import FakeRunner, answer, continuation, make_engine, request, run
from tests.engine.tiering import LONG, flood, sources


def test_a_preempted_request_is_swapped_to_host_memory_and_back():
    recomputed = {}
    for host in (0, 64):
        engine = make_engine(num_blocks=24, max_tokens=64, host_blocks=host)
        for i in range(3):
            engine.add(request(f"r{i}", range(100 * i, 100 * i + 24), 36), 0.0)
        tokens, _ = run(engine)
        for i in range(3):
            assert tokens[f"r{i}"][0] == continuation(range(100 * i, 100 * i + 24), 36)
        assert engine.scheduler.stats.preemptions > 0
        recomputed[host] = engine.scheduler.stats.recomputed_tokens
    assert recomputed[64] < 0.5 * recomputed[0]


@pytest.mark.parametrize(("host", "least", "most"), [(600, 0.95, 1.0), (0, 0.45, 0.6)])
def test_sessions_that_return_in_turn_with_room_for_half_of_them(host, least, most):
    """The order in which a plain LRU loses every session (measured of the peers: 0 of 32 hit)."""
    engine = make_engine(num_blocks=270, max_tokens=64, max_model_len=120, host_blocks=host)
    histories = {f"s{i}": [i, *range(60)] for i in range(32)}
    cached = attainable = now = 0
    for round in range(4):
        for owner, history in histories.items():
            now += 1
            name, prompt = f"{owner}/{round}", [*history, round]
            engine.add(request(name, prompt, 2, owner=owner), now)
            tokens, finals = run(engine, now=now)
            assert tokens[name][0] == continuation(prompt, 2)
            engine.lease(LeaseRequest(owner=owner, strength=Strength.SOFT, ttl=60), now)
            if round:
                cached += finals[name, 0].usage.cached_tokens
                attainable += len(history) - 1
            histories[owner] = [*prompt, *tokens[name][0]]
    assert least <= cached / attainable <= most


def test_both_tiers_together_give_a_prefix_without_a_gap(disk):
    engine = make_engine(num_blocks=17, host_blocks=1, disk=disk())
    answer(engine, "first", LONG, owner="s")
    flood(engine, 1)
    assert sources(answer(engine, "again", LONG, owner="s")) == (24, 4, 8)


def test_a_continued_conversation_extends_what_is_kept(disk):
    engine = make_engine(num_blocks=20, disk=disk())
    answer(engine, "first", LONG, owner="s")
    longer = [*LONG, *continuation(LONG, 4), 7, 8, 9]
    answer(engine, "second", longer, owner="s")
    later = make_engine(num_blocks=20, disk=disk())
    assert answer(later, "third", [*longer, *continuation(longer, 4), 1], owner="s").usage.disk_tokens == 48


class TestOpening:
    def test_a_config_without_tiers_has_none(self):
        assert open_tiers(EngineConfig(swap_space=0), FakeRunner(), b"d" * 32) is None

    def test_sizes_are_in_gib(self, tmp_path):
        config = EngineConfig(swap_space=0.5, kv_dir=str(tmp_path / "kv"), disk_space=0.25)
        tiers = open_tiers(config, FakeRunner(block_size=4), b"d" * 32)
        tiers.close()
        assert tiers.host.capacity == (1 << 29) // (32 + ENTRY_BYTES)
        assert tiers.disk.capacity == 1 << 28
        assert most_contents(config, 32) == tiers.host.capacity + 64 + (2 << 20) // 32

    def test_more_memory_than_there_is_is_refused(self):
        with pytest.raises(ConfigError, match=r"swap_space.*more than this machine's \d+ GiB"):
            open_tiers(EngineConfig(swap_space=1e6), FakeRunner(), b"d" * 32)

    def test_a_folder_that_cannot_be_used_is_refused_by_name(self, tmp_path):
        (tmp_path / "kv").write_text("a file")
        with pytest.raises(ConfigError, match=r"kv_dir.*cannot be used"):
            open_tiers(EngineConfig(kv_dir=str(tmp_path / "kv")), FakeRunner(), b"d" * 32)


@pytest.mark.parametrize(("dtype", "kept"), [("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", "fp8")])
def test_a_real_cache_gives_back_what_it_gave(tiny_model, dtype, kept):
    import torch

    runner = ModelRunner(
        EngineConfig(model=str(tiny_model("llama")), num_kv_blocks=16, dtype=dtype, kv_cache_dtype=kept)
    )
    layers = [*runner.cache.keys, *runner.cache.values, *runner.cache.key_scales, *runner.cache.value_scales]
    for tensor in layers:
        tensor.copy_(torch.randn(tensor.shape))
    layers = [tensor.view(torch.int8) for tensor in layers]
    before = [tensor.clone() for tensor in layers]
    contents = runner.read_blocks([3, 7])
    assert [len(c) for c in contents] == [runner.block_bytes] * 2
    assert contents[0] != contents[1]
    runner.write_blocks([9, 3], contents)
    for tensor, old in zip(layers, before, strict=True):
        assert torch.equal(tensor[9], old[3])
        assert torch.equal(tensor[3], old[7])
        assert torch.equal(tensor[7], old[7])


def test_a_proof_is_of_the_whole_prefix_and_its_domain():
    engine = make_engine()
    one, two = engine._intake.hasher(b"one"), engine._intake.hasher(b"two")
    assert one.proof != two.proof
    a = one.prove(one.proof, (1, 2, 3, 4))
    assert one.prove(a, (1, 2, 3, 4)) != a
    assert len({a, one.prove(one.proof, (1, 2, 3, 5)), two.prove(two.proof, (1, 2, 3, 4))}) == 3


def test_tiers_say_what_they_hold():
    tiers = Tiers(FakeRunner())
    assert b"x" * 32 not in tiers
    assert tiers.find(b"x" * 32, Reading(1)) is None
    tiers.save("s", [])
    tiers.drop("s")
    tiers.demote([Demoted(b"x" * 32, 1, dead=False)])
    tiers.is_back(b"x" * 32)
    tiers.forget([b"x" * 32])
    tiers.clear()
    tiers.close()
    assert list(Source) == ["host", "disk"]
