"""Many kernels on the CPU as one call: their tables lie in one array, and a call of the program runs them in order.

Of a step of few rows the interpreter takes as long as a small model's products do, and wakes the threads anew for each.
Here the threads stay together and wait for each other between two kernels.
"""

from __future__ import annotations

import ctypes
from array import array
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from chatpager.kernels.cpu_code import Kernel, kernel_of, team_entry


def executor() -> Kernel | None:
    """What runs programs; None where numba or torch's team of threads cannot be had."""
    return kernel_of("cpu_program_jit", "program") if team_entry("GOMP_barrier") else None


class Program:
    """Calls of kernels, each with a table whose numbers can be set between two runs by the names of ``marks``.

    A kernel shares its work out by counters in its table; those are named ``counter``, and each run begins them at 0.
    """

    def __init__(self) -> None:
        found, barrier = executor(), team_entry("GOMP_barrier")
        assert found is not None and barrier is not None
        self._executor = found
        self._barrier = ctypes.cast(barrier, ctypes.c_void_p).value or 0
        self._calls: list[tuple[Kernel, int]] = []
        self._numbers: list[int] = []
        self._marks: dict[str, list[int]] = defaultdict(list)
        self._memory = np.empty(0, dtype=np.int64)
        self._head = array("q")
        self._places: dict[str, np.ndarray] = {}

    def add(self, kernels: Sequence[Kernel], table: Sequence[int], **marks: int | Sequence[int]) -> None:
        """Calls of ``kernels``, one after the other, with the same table, in which ``marks`` are places."""
        start = len(self._numbers)
        self._numbers += table
        self._calls += [(kernel, start) for kernel in kernels]
        for name, places in marks.items():
            self._marks[name] += [start + place for place in ([places] if isinstance(places, int) else places)]

    def close(self) -> None:
        """No more calls: now it can be run."""
        self._memory = np.array(self._numbers, dtype=np.int64)
        self._places = {name: np.array(places) for name, places in self._marks.items()}
        self._head = array("q", [len(self._calls), 0])
        for kernel, start in self._calls:
            self._head.extend((kernel.address, self._memory.ctypes.data + 8 * start))

    def set(self, **values: int) -> None:
        """Set the numbers of these names, wherever they stand."""
        for name, value in values.items():
            self._memory[self._places[name]] = value

    def get(self, name: str) -> np.ndarray:
        """The numbers of that name, in the order of the calls."""
        numbers: np.ndarray = self._memory[self._places[name]]
        return numbers

    def run(self, threads: int) -> None:
        """With so many threads, which is what kernels' numbers of parts are to be set for."""
        self.set(counter=0)
        self._head[1] = self._barrier if threads > 1 else 0
        self._executor.run(self._head, threads)
