"""Many requests at once: ours and transformers', on the smallest model."""

import json

import pytest
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from transformers.generation.continuous_batching import ContinuousBatchingManager

from chatpager.bench import offline
from chatpager.errors import ConfigError

SMALL = {"requests": 3, "least": 2, "most": 9, "plain": 1, "shape": "llama-15m", "dtype": "float32"}


@pytest.fixture
def continuous(monkeypatch):
    """What transformers' continuous batching was asked for, and each answer that was waited for."""
    seen, add, ended = [], ContinuousBatchingManager.add_request, offline._ended

    def added(manager, prompt, **options):
        seen.append(options["max_new_tokens"])
        return add(manager, prompt, **options)

    monkeypatch.setattr(ContinuousBatchingManager, "add_request", added)
    monkeypatch.setattr(offline, "_ended", lambda manager: (ended(manager), seen.append("ended"))[0])
    return seen


def test_each_way_tells_the_same_tokens_and_has_its_rate(tmp_path, capsys, continuous):
    out = tmp_path / "offline.json"
    result = offline.run(offline.Options(**SMALL, out=str(out)))
    assert json.loads(out.read_text()) == result
    ours, peer, plain = (result["ways"][name] for name in ("chatpager", "continuous batching", "generate, one by one"))
    assert (ours["requests"], peer["requests"], plain["requests"]) == (3, 3, 1)
    assert continuous[:2] == [4, "ended"] and continuous[5:] == 3 * ["ended"], "one before the others, as of ours"
    assert ours["steps"] >= 2
    for row in (peer, plain):
        assert row["ours_against_it"] == pytest.approx(ours["tokens_per_s"] / row["tokens_per_s"], abs=0.01)
    assert "continuous batching" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [{"requests": 0}, {"least": 1}, {"most": 1}, {"plain": -1}, {"at_once": 0}, {"dtype": "int8"}, {"device": "x"}],
)
def test_what_cannot_be_measured_is_refused_before(wrong):
    with pytest.raises(ConfigError) as refused:
        offline.run(offline.Options(**{**SMALL, **wrong}))
    assert refused.value.name == next(iter(wrong))


def test_the_busy_share_counts_no_moment_twice():
    assert offline.union([]) == 0.0
    assert offline.union([(0, 4), (2, 5), (10, 20)]) == 0.75
    assert offline.union([(3, 9), (4, 5)]) == 1.0


def test_a_host_or_a_stream_that_waits_makes_no_device_busy():
    events = [
        ("decode_kernel", DeviceType.CUDA, 0, 4),
        ("cudaEventSynchronize", DeviceType.CPU, 1, 18),
        ("cudaGraphLaunch", DeviceType.CPU, 4, 9),
        ("Stream Sync", DeviceType.CUDA, 0, 20),
        ("Context Sync", DeviceType.CUDA, 3, 30),
        ("Stream Wait Event", DeviceType.CUDA, 4, 16),
        ("Memcpy DtoH (Device -> Pinned)", DeviceType.CUDA, 16, 20),
    ]
    made = [FunctionEvent(i, name, 1, start, end, device_type=on) for i, (name, on, start, end) in enumerate(events)]
    assert offline.on_device(made) == [(0, 4), (16, 20)]
    assert offline.union(offline.on_device(made)) == 0.4
