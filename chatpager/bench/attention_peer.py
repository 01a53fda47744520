"""What a library is to be beside our kernels."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor

from chatpager.kernels.arguments import AttentionCall

Work = Callable[[], Tensor]
"""Computes a call's output, [tokens, heads, head_dim]."""
Make = Callable[[AttentionCall], Work | None]
"""Does what such a library does once a step; None: it has no such call."""


def first_of(*names: str) -> Any:
    """The first of these modules that is here; None: none is. Raises ImportError: one is, and what it needs is not."""
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
    return None
