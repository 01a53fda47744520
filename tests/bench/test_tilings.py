"""The sweep runs, here in the interpreter, and what it prints is an entry of the table."""

import tomllib

import pytest
import torch

from chatpager.bench import tilings
from chatpager.kernels.configurations import Shape, Tiling

WHERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.no_cover
def test_every_kernel_of_every_shape_gives_an_entry(monkeypatch):
    monkeypatch.setattr(tilings, "DECODE", (40, 20))
    monkeypatch.setattr(tilings, "EXTEND", (40, 5))
    monkeypatch.setattr(tilings, "candidates", lambda kernel, group, now: [now, Tiling(64, 32, 4, 2)])
    told = list(tilings.sweep(WHERE, torch.float16, [(4, 2, 16)], 0.0, named="a card"))
    entries = tomllib.loads("\n".join(told))["tiling"]
    assert [(entry["kernel"], entry["head_dim"], entry["groups"]) for entry in entries] == [
        ("decode", 16, [2]),
        ("extend", 16, [2]),
    ]
    assert all(entry["source"].startswith("measured on a card, 20") for entry in entries)


def test_what_is_used_now_stays_unless_another_is_clearly_faster(monkeypatch):
    from chatpager.kernels import cuda

    now, others = Tiling(16, 64, 4, 5), [Tiling(16, 32, 4, 5), Tiling(16, 128, 4, 5)]
    call = tilings.attention_call(torch.device("cpu"), torch.float32, (2, 1, 16), [20])
    times = iter([1.0, 0.99, 0.5])
    monkeypatch.setattr(tilings, "seconds_each", lambda *_: next(times))
    assert tilings.fastest(call, iter([now, *others]), 0.0) == (others[1], 0.5, 1.0)
    times = iter([1.0, 0.99, 1.5])
    assert tilings.fastest(call, iter([now, *others]), 0.0) == (now, 1.0, 1.0)
    found = list(tilings.candidates("decode", 4, now))
    assert found[0] == now and found.count(now) == 1 and {one.rows for one in found} == {16}
    assert tilings.entry(Shape("decode", "sm_90", 64, 8, 2, few=True), now, "model").count("few = true") == 1
    assert cuda.tiling_of(call) == cuda.tiling_of(call._replace(plans=None))
