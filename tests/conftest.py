"""What every test shares: one torch thread, no network to a model hub, a fixed seed."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import signal

import hypothesis
import pytest
import torch

# A shell starts background jobs with Ctrl+C ignored, and every process below would inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton asks at its first import, which may be transformers', whether kernels are to run on its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from tests.chat_models import save_model, save_tokenizer
from tests.on_gpu import pytest_addoption, pytest_ignore_collect  # noqa: F401
from tests.postgres import pooler, postgres_server, postgres_url  # noqa: F401
from tests.processes import fork_server, pytest_runtest_setup, server, server_url  # noqa: F401
from tests.reliability.rows import pytest_collection_modifyitems, pytest_configure  # noqa: F401
from tests.small_disk import small_disk  # noqa: F401
from tests.watched.sitecustomize import watch


def _refuse(address: tuple) -> None:
    """The server asks nobody else for anybody, and no test does; nor what they start, where that ends."""
    raise PermissionError(f"a test, or what it tests, asks {address}: only this machine is asked")


watch(_refuse)

# Every run draws the same examples; `pytest --hypothesis-profile default` draws new ones.
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported by now stays, and so do the tests: the collector went through it all again and again, for a
    quarter of a second each time, a fifth of what the tests took."""
    gc.disable()
    try:
        collected = yield
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
    return collected


def pytest_unconfigure():
    """Whoever tells at the end what was never freed looks at what can be."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _one_torch_thread_and_a_fixed_seed():
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory):
    """Folder of a tiny random chat model: weights, tokenizer, ChatML template."""
    folder = tmp_path_factory.mktemp("chat-model")
    return save_tokenizer(save_model(folder))
