"""Runs a target under atheris, which the project does not depend on (``pip install atheris``).

What is new to it is kept in pytest's cache, where the next run begins; an input that breaks the target lies beside it.
"""

import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import FunctionType

HERE = Path(__file__).parent
KEPT = HERE.parent.parent / ".pytest_cache" / "fuzz"
FOLLOWED = ("chatpager", "tomllib", "__main__")
"""Whose branches tell atheris what is new."""
SLOW_SECONDS = 20
"""An input that takes longer is a finding."""


def fuzz(one_input: Callable[[bytes], object]) -> None:
    """On the seeds and what becomes of them; the command's arguments are libFuzzer's. Never returns."""
    import atheris
    from mutating import mutated

    def test(data: bytes) -> None:
        one_input(data)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        ours = mutated(data, random) if random.random() < 0.5 else b""
        return ours if 0 < len(ours) <= most else atheris.Mutate(data, most)

    logging.disable(logging.CRITICAL)
    name = Path(sys.argv[0]).stem.removeprefix("fuzz_")
    found = KEPT / name
    found.mkdir(parents=True, exist_ok=True)
    for function in [f for f in gc.get_objects() if isinstance(f, FunctionType) and _is_followed(f)]:
        atheris.instrument_func(function)
    arguments = [f"-artifact_prefix={KEPT}/{name}-", f"-timeout={SLOW_SECONDS}", *sys.argv[1:]]
    atheris.Setup([sys.argv[0], *arguments, str(found), str(HERE / "corpus" / name)], test, custom_mutator=changed)
    atheris.Fuzz()


def _is_followed(function: FunctionType) -> bool:
    return (function.__module__ or "").partition(".")[0] in FOLLOWED
