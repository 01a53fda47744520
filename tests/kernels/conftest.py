"""Every kernel test runs on each backend that this machine has."""

import pytest
import torch

from tests.kernels.pages import Backend

HAS_GPU = torch.cuda.is_available()


TRITON = [
    pytest.param("triton-interpret", marks=pytest.mark.skipif(HAS_GPU, reason="kernels are compiled here")),
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")]),
]


@pytest.fixture(params=["cpu", "cpu-gathered", *TRITON])
def backend(request):
    return Backend(request.param)


@pytest.fixture(params=TRITON)
def triton_backend(request):
    return Backend(request.param)


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan(monkeypatch):
    """Scratch memory starts as NaN, so that reading what was never written shows."""
    empty = torch.empty

    def poisoned(*args, **options):
        tensor = empty(*args, **options)
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", poisoned)
