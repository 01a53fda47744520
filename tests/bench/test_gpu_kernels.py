"""Every kernel's measurement can be run, here in the interpreter, and its bytes and operations are what it needs."""

import pytest
import torch

from chatpager.bench import gpu_kernels, kernels
from chatpager.bench.ceilings import Ceilings
from chatpager.bench.gpu_kernels import Sizes
from chatpager.kernels.cuda import served_eight_bits

SMALL = Sizes(
    heads=(2, 1, 16), hidden=32, intermediate=48, vocabulary=64, tokens=(3,), rows=(1,), chunks=((4, 0), (2, 9)),
    ragged=((5, 5), (2, 17)), shared=((3, 32, 5),),
)  # fmt: skip
HAS_GPU = torch.cuda.is_available()
WHERE = torch.device("cuda" if HAS_GPU else "cpu")


@pytest.mark.no_cover
def test_every_kernel_is_measured():
    seen = []
    for case in gpu_kernels.cases(WHERE, torch.float32, SMALL):
        case.ours()
        if case.torch:
            case.torch()
        assert case.moved > 0
        seen.append(case.kernel)
    eight = [f"decode {str(kind).removeprefix('torch.')}" for kind in served_eight_bits(WHERE)]
    apart = ["decode apart", "decode together"]
    names = ["decode", *eight, *apart, "extend", "store", "rotate and store", "sum and norm", "gate", "draw"]
    assert list(dict.fromkeys(seen)) == names


def test_the_time_of_one_is_what_all_took_by_their_number():
    ran = []
    works = [lambda i=i: ran.append(i) for i in range(3)] if not HAS_GPU else [torch.ones(9, device="cuda").sum]
    assert 0 < gpu_kernels.seconds_each(WHERE, works, 0.0) < 1
    assert HAS_GPU or ran == 5 * [0, 1, 2]


def test_figures_are_shares_of_what_the_device_can_do(monkeypatch):
    case = gpu_kernels.Case("extend", "4 behind 0", 2e6, 8e9, lambda: None, lambda: None)
    monkeypatch.setattr(gpu_kernels, "cases", lambda *_: [case])
    monkeypatch.setattr(gpu_kernels, "seconds_each", lambda *_: 2e-3)
    (row,) = gpu_kernels.measure(WHERE, torch.float32, Ceilings(2e9, 4e12), 0.0)
    assert row == {
        "kernel": "extend", "size": "4 behind 0", "us": 2000.0, "bound": "compute", "gb_s": 1.0, "tflop_s": 4.0,
        "of_floor": 1.0, "torch_us": 2000.0,
    }  # fmt: skip


def test_a_cpu_has_none_of_them():
    assert kernels._others(torch.device("cpu"), torch.float32, 0.0) == []
