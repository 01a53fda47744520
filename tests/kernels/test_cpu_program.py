"""A program runs its calls in order, each over before the next, as often as it is asked, on any number of threads."""

import pytest
import torch

from chatpager.kernels import cpu_code, cpu_linear, cpu_program, cpu_rows
from chatpager.kernels import cpu_linear as products
from chatpager.kernels import cpu_rows as passes
from chatpager.kernels.cpu_linear import Weights
from chatpager.kernels.cpu_program import Program

ROWS, DIM, CALLS = 5, 48, 40


class Doubling:
    """``x += x`` and ``x = x @ w.T``, by turns, CALLS times."""

    def __init__(self, threads):
        self.x = torch.empty(ROWS, DIM, dtype=torch.bfloat16)
        self.y = torch.empty_like(self.x)
        self.w = torch.eye(DIM).flip(0).bfloat16() / 2  # turns the row round, and halves it
        self.scratch = torch.empty(cpu_linear.scratch_floats(ROWS, DIM, threads))
        self.program = Program()
        for i in range(CALLS):
            x, y = (self.x, self.y) if i % 2 == 0 else (self.y, self.x)
            marks = {"rows": passes.ROWS, "parts": passes.PARTS, "counter": passes.NEXT}
            self.program.add([cpu_rows.kernel(torch.bfloat16)], cpu_rows.add_table(x, x), **marks)
            marks = {"rows": products.ROWS, "parts": products.PARTS, "counter": [products.NEXT, products.WIDENED]}
            kernels = cpu_linear.kernels(torch.bfloat16, torch.bfloat16)
            self.program.add(kernels, cpu_linear.call_table(x, Weights(self.w), y, 1, self.scratch), **marks)
        self.program.close()

    def run(self, x, threads):
        self.x[: len(x)] = x
        self.program.set(rows=len(x), parts=threads)
        self.program.run(threads)
        return self.x[: len(x)].clone()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_calls_come_one_after_the_other(threads):
    """Any two that ran at once, or any part left out, would show in the result."""
    doubling = Doubling(threads)
    for rows in (ROWS, 1, 3, ROWS) * 20:
        x = torch.randn(rows, DIM).bfloat16()
        assert torch.equal(doubling.run(x, threads), x)


def test_numbers_are_set_and_read_by_name():
    program = Program()
    program.add([cpu_rows.kernel(torch.float32)], [0] * 16, here=[3, 5], there=1)
    program.add([cpu_rows.kernel(torch.float32)], [7] * 16, here=0)
    program.close()
    assert program.get("here").tolist() == [0, 0, 7]
    program.set(here=9)
    assert program.get("here").tolist() == [9, 9, 9]
    assert program.get("there").tolist() == [0]


def test_a_torch_without_the_entries_has_no_programs(monkeypatch):
    monkeypatch.setattr(cpu_program, "team_entry", lambda name: None)
    assert cpu_program.executor() is None


def test_an_entry_that_is_not_there_is_told(caplog):
    assert cpu_code.team_entry.__wrapped__("GOMP_unheard_of") is None
    assert "GOMP_unheard_of" in caplog.text
