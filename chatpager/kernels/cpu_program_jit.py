# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Runs kernels one after the other without coming back to the interpreter between them."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from chatpager.kernels.cpu_entry import as_c_calls_it, jit
from chatpager.kernels.cpu_vectors import I64, INT64, int64_at

COUNT, BARRIER, CALLS = range(3)
"""Places in a program's table: how many calls, what waits for the other threads (0: there are none), and then two for
each call, the kernel's address and that of its table."""


@intrinsic
def call(typing, address, table):
    """Call what ``as_c_calls_it`` made."""

    def build(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [I64.as_pointer()])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return context.get_dummy_value()

    return types.none(types.int64, INT64), build


@intrinsic
def wait(typing, address):
    """Call a function of nothing that returns nothing."""

    def build(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.none(types.int64), build


@jit
def work(p):
    for i in range(p[COUNT]):
        call(p[CALLS + 2 * i], int64_at(p[CALLS + 2 * i + 1]))
        if p[BARRIER]:
            wait(p[BARRIER])


def compiled(name):
    """``program`` as C calls it."""

    def program(p):  # pragma: no cover
        work(p)

    return as_c_calls_it({"program": program}[name])
