"""Drawing without a sort, against the CPU's sampler: its numbers, its cuts, its tokens."""

import numpy
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from chatpager.engine.sampler import _draw, draw_on_device, draw_rules, uniform
from chatpager.kernels import cuda_sampling
from chatpager.kernels.cuda_sampling import uniform as uniform_on_device
from chatpager.kernels.workspace import Workspace
from tests.engine.test_sampler import seq

pytestmark = pytest.mark.no_cover


@pytest.fixture(autouse=True)
def _interpreted():
    """The interpreter's whole numbers of 64 bits overflow as a GPU's do, and it says so."""
    with numpy.errstate(over="ignore", invalid="ignore", divide="ignore"):
        yield


def same(device, logits: Tensor, seqs):
    """Tokens as the CPU draws them."""
    wanted = _draw(logits, seqs).tolist()
    assert draw_on_device(logits.to(device), seqs).tolist() == wanted
    return wanted


@triton.jit
def uniform_kernel(p_out, p_seeds, p_positions, COUNT: tl.constexpr):
    from_device = uniform_on_device(
        tl.load(p_seeds + tl.arange(0, COUNT)).to(tl.uint64, bitcast=True),
        tl.load(p_positions + tl.arange(0, COUNT)).to(tl.uint64, bitcast=True),
    )
    tl.store(p_out + tl.arange(0, COUNT), from_device)


def test_the_device_draws_the_numbers_that_the_host_draws(triton_backend):
    seeds = [0, 1, 7, 2**31, 2**63 - 1, -1, -(2**63), 1234567890123456789]
    positions = [0, 1, 2, 3, 2**20, 2**31, 5, 99]
    out = torch.empty(8, dtype=torch.float64, device=triton_backend.device)
    uniform_kernel[(1,)](out, *(torch.tensor(x, device=out.device) for x in (seeds, positions)), COUNT=8)
    assert out.tolist() == [uniform(seed, position) for seed, position in zip(seeds, positions, strict=True)]


PARAMETERS = [
    {},
    {"temperature": 0.3},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10_000},
    {"top_p": 1e-6},
    {"top_p": 0.5},
    {"top_p": 0.95, "temperature": 2.0},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.7},
    {"top_k": 3, "top_p": 0.99, "min_p": 0.02, "temperature": 0.7},
]


@pytest.mark.parametrize("vocabulary", [1, 50, 700])
def test_every_mixture_of_parameters_gives_the_cpus_tokens(triton_backend, vocabulary, monkeypatch):
    monkeypatch.setattr(cuda_sampling, "BLOCK", 256)  # several blocks, and a last one that is not full
    torch.manual_seed(vocabulary)
    seqs = [seq(seed=17 * i, **params) for i, params in enumerate(PARAMETERS)]
    drawn = same(triton_backend.device, 2 * torch.randn(len(seqs), vocabulary), seqs)
    assert vocabulary == 1 or len(set(drawn)) > 3


@pytest.mark.parametrize("params", [{"top_k": 5}, {"top_p": 0.45}, {"top_k": 12, "top_p": 0.31}, {}], ids=str)
def test_of_equal_logits_the_first_are_kept(triton_backend, params, monkeypatch):
    monkeypatch.setattr(cuda_sampling, "BLOCK", 8)
    row = torch.tensor([1.0, 2.0, 0.0, 2.0, -0.0] * 3)
    seqs = [seq(seed=i, **params) for i in range(5)]
    same(triton_backend.device, row.repeat(len(seqs), 1), seqs)


def test_tokens_that_are_ruled_out_are_never_drawn(triton_backend):
    logits = torch.full((6, 40), -torch.inf)
    logits[:, 33], logits[:3, 7] = 1.0, 0.5
    seqs = [seq(seed=i, **params) for i, params in enumerate(2 * [{}, {"top_k": 30}, {"top_p": 0.999}])]
    assert set(same(triton_backend.device, logits, seqs)) <= {7, 33}


def test_a_row_without_a_finite_peak_gives_no_token(triton_backend):
    logits = torch.randn(4, 40)
    logits[0, 3], logits[1, 39] = torch.nan, torch.inf
    logits[2] = -torch.inf
    params = {"top_k": 5, "top_p": 0.5}
    drawn = draw_on_device(logits.to(triton_backend.device), [seq(**params) for _ in range(4)]).tolist()
    assert drawn[:3] == [-1, -1, -1] and drawn[3] >= 0
    assert draw_on_device(logits[:0].to(triton_backend.device), []).shape == (0,)


def test_a_row_alone_and_in_a_batch_give_one_token(triton_backend):
    logits = torch.randn(5, 300).to(triton_backend.device)
    seqs = [seq(seed=i, top_k=40, top_p=0.8) for i in range(5)]
    together = draw_on_device(logits, seqs).tolist()
    assert [draw_on_device(logits[i : i + 1], seqs[i : i + 1]).item() for i in range(5)] == together


# -- several programs a row -------------------------------------------------------------------------------------------

CUTS = [
    {"top_k": 7},
    {"top_p": 0.5},
    {"top_k": 150, "top_p": 0.8, "temperature": 0.7},
    {"top_k": 12, "top_p": 0.31, "min_p": 0.05},
    {"min_p": 0.1},
    {"top_p": 1e-6},
]


def kept(device, logits: Tensor, seqs, monkeypatch) -> list[Tensor]:
    """Which tokens one program keeps, and which several keep."""
    found, scaled = [], logits / torch.tensor([[s.params.temperature] for s in seqs])
    keys = (scaled + 0.0).view(torch.int32)
    keys = keys ^ ((keys >> 31) & 0x7FFFFFFF)
    for least in (1 << 30, 1):
        monkeypatch.setattr(cuda_sampling, "LEAST_BLOCKS", least)
        workspace = Workspace()
        floats, whole = draw_rules(seqs, [3] * len(seqs), logits.shape[1])
        temperature, top_p, log_min_p = torch.tensor(floats, device=device)
        seeds, positions, top_k = torch.tensor(whole, device=device)
        cuda_sampling.draw(
            logits.to(device), temperature=temperature, top_k=top_k.int(), top_p=top_p, log_min_p=log_min_p,
            seeds=seeds, positions=positions, workspace=workspace,
        )  # fmt: skip
        cut, last = workspace.take("cuts", (len(seqs), 2), torch.int32, torch.device(device)).cpu().T.unsqueeze(-1)
        found.append((keys > cut) | ((keys == cut) & (torch.arange(logits.shape[1]) <= last)))
    return found


@pytest.mark.parametrize(("step", "which"), [(None, CUTS), (0.5, CUTS[1:4])], ids=["all differ", "many are equal"])
def test_several_programs_keep_the_tokens_that_one_keeps(triton_backend, step, which, monkeypatch):
    monkeypatch.setattr(cuda_sampling, "BLOCK", 128)
    torch.manual_seed(5)
    logits = 2 * torch.randn(len(which), 200)
    logits = logits if step is None else (logits / step).round() * step
    seqs = [seq(seed=i, **params) for i, params in enumerate(which)]
    one, several = kept(triton_backend.device, logits, seqs, monkeypatch)
    assert torch.equal(one, several) and len(set(one.sum(-1).tolist())) > len(which) // 2
    same(triton_backend.device, logits[2:3], seqs[2:3])


def test_several_programs_find_no_token_where_there_is_none(triton_backend, monkeypatch):
    monkeypatch.setattr(cuda_sampling, "LEAST_BLOCKS", 1)
    logits = torch.full((4, 40), -torch.inf)
    logits[0, 3], logits[1, 39], logits[3, 33] = torch.nan, torch.inf, 1.0
    drawn = draw_on_device(logits.to(triton_backend.device), [seq(top_k=5, top_p=0.5)] * 4).tolist()
    assert drawn == [-1, -1, -1, 33]


def test_few_rows_of_a_large_vocabulary_are_cut_by_several_programs():
    assert (
        cuda_sampling.is_split(1, 131_072)
        and cuda_sampling.is_split(16, 131_072)
        and cuda_sampling.is_split(13, 152_064)
    )
    assert not cuda_sampling.is_split(17, 131_072) and not cuda_sampling.is_split(1, 32_000)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 12.0])
def test_on_a_gpu_several_programs_keep_what_one_keeps_of_a_large_vocabulary(spread, monkeypatch):
    seqs = [seq(seed=i, **params) for i, params in enumerate(CUTS)]
    one, several = kept("cuda", spread * torch.randn(len(CUTS), 131_072), seqs, monkeypatch)
    assert torch.equal(one, several)
