"""chatpager: a session-first streaming chat server.

The public names are imported on first use, so that ``import chatpager`` stays cheap:
``LLM``, ``SamplingParams``, ``Grammar`` and ``BeamSearchParams`` (the engine offline), ``AsyncClient`` and ``Client``
(of the wire), ``paged_attention`` (the kernels; ``paged_attention.forward``).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "LLM", "AsyncClient", "BeamSearchParams", "Client", "Grammar", "SamplingParams", "__version__", "paged_attention",
]  # fmt: skip

_HOMES = {
    "LLM": ("chatpager.engine.llm", "LLM"),
    "SamplingParams": ("chatpager.engine.sequence", "SamplingParams"),
    "Grammar": ("chatpager.engine.grammar", "Grammar"),
    "BeamSearchParams": ("chatpager.engine.beam_search", "BeamSearchParams"),
    "AsyncClient": ("chatpager.client", "AsyncClient"),
    "Client": ("chatpager.client", "Client"),
    "paged_attention": ("chatpager.kernels.paged_attention", None),
}

if TYPE_CHECKING:
    from chatpager.client import AsyncClient, Client
    from chatpager.engine.beam_search import BeamSearchParams
    from chatpager.engine.grammar import Grammar
    from chatpager.engine.llm import LLM
    from chatpager.engine.sequence import SamplingParams
    from chatpager.kernels import paged_attention


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'chatpager' has no attribute {name!r}") from None
    loaded = import_module(module)
    value = loaded if attribute is None else getattr(loaded, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
