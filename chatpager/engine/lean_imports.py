"""Importing torch and transformers without what a server never runs.

``import torch`` also imports what exports, quantises, trains and profiles models, and transformers what compiles them
and spreads them over devices: half of a server's start (``bench/LOG.md``). Modules named here are put off: they are
there, and run when somebody asks them for something, so that whoever does need them has them. It is for a program that
serves and nothing else, and says so before it imports torch.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import _bootstrap
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from threading import RLock, Thread, get_ident
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")


def _unchanged(function: Any = None, recursive: bool = True, **_: Any) -> Any:
    """A decorator for the compiler, which nobody calls."""
    return function if function is not None else _unchanged


def _when_called(module: str, name: str) -> Callable[..., Any]:
    """What stands in ``module``, which runs when this is called."""

    def call(*args: Any, **options: Any) -> Any:
        there = sys.modules[module]
        if isinstance(there, _PutOff):
            there.__run__()
        return getattr(there, name)(*args, **options)

    return call


_DECORATORS = dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _unchanged)
_KERNELS = "torch._meta_registrations"
_MASKS = "torch._dynamo._trace_wrapped_higher_order_op"
_FOR_MASKS = "TransformGetItemToIndex"
PUT_OFF: dict[str, dict[str, Any]] = {
    "torch._dynamo": _DECORATORS,
    _MASKS: {_FOR_MASKS: _when_called(_MASKS, _FOR_MASKS)},
    _KERNELS: {},
    "torch.distributed._meta_registrations": {},
    "torch.export": {},
    "torch.nn.intrinsic": {},
    "torch.nn.qat": {},
    "torch.nn.quantizable": {},
    "torch.nn.quantized": {},
    "torch.quantization": {},
}
"""Modules by name, with what is asked of them while others are imported."""
_BEFORE = {"torch._dynamo": _KERNELS}
"""What runs before: torch imports them in this order, and in the other one a circle of its own imports breaks."""
LOOK_SECONDS = 0.02
"""Between two looks at whether who runs a put-off module waits for who waits for it."""
SCANNER, SCAN = "transformers.utils.import_utils", "create_import_structure_from_path"


def put_off(names: Mapping[str, Mapping[str, Any]] = PUT_OFF) -> None:
    """From now on these modules run when they are needed; those that were imported before stay as they are."""
    sys.meta_path.insert(0, _Finder(names))


def link_ahead() -> Thread | None:
    """Have the largest of torch's libraries linked in a thread, while other rooms are imported: an import would hold
    the interpreter's lock meanwhile. None: it is called otherwise here."""
    torch = find_spec("torch")
    library = Path(torch.origin).parent / "lib" / "libtorch_cpu.so" if torch and torch.origin else None
    if library is None or not library.is_file():
        return None
    dlopen = ctypes.CDLL(None).dlopen
    thread = Thread(target=dlopen, args=(os.fsencode(library), os.RTLD_NOW), name="chatpager-linking", daemon=True)
    thread.start()
    return thread


def prepare() -> None:
    """Put off what can be, and import transformers as if torch could not spread models over devices: it has parts for
    that in nearly all of its rooms."""
    put_off()
    import torch
    from transformers.utils import import_utils

    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        import_utils.is_torch_distributed_available()  # asked once, and remembered
    finally:
        torch.distributed.is_available = is_available


def with_all_kernels(build: Callable[[], T]) -> T:
    """What ``build`` makes of tensors without memory. Kernels for those are put off, too: most models need few of them,
    and torch says of one that it lacks."""
    try:
        return build()
    except NotImplementedError:
        if not isinstance(kernels := sys.modules.get(_KERNELS), _PutOff):
            raise
        kernels.__run__()
    return build()


class _Finder(MetaPathFinder):
    def __init__(self, names: Mapping[str, Mapping[str, Any]]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        given = self._names.get(fullname)
        package = sys.modules.get(fullname.rpartition(".")[0])
        if given is None and fullname != SCANNER and not isinstance(package, _PutOff):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        if given is not None:
            spec.loader = _Loader(spec.loader, given)
        elif isinstance(package, _PutOff):
            spec.loader = _Part(spec.loader, package)
        else:
            spec.loader = _Scanner(spec.loader)
        return spec


class _Part(Loader):
    """Who imports a part of a package wants the package: it runs before the part is made, and may import it itself.
    Where a part is looked for it would be too soon: no other thread can import anything meanwhile."""

    def __init__(self, loader: Loader, package: _PutOff) -> None:
        self._loader, self._package = loader, package

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        self._package.__run__()
        if (there := sys.modules.get(spec.name)) is not None:
            return there
        spec.loader = self._loader
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Of one that the package has run."""
        assert module.__spec__ is not None
        module.__spec__.loader = self._loader


class _Scanner(Loader):
    """transformers reads the sources of all its models for what they export, and once more where its own memory of
    that, of 128 folders, does not reach: it gets one that does."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        scan: Any = getattr(module, SCAN, None)
        if hasattr(scan, "__wrapped__"):
            setattr(module, SCAN, cache(scan.__wrapped__))


class _Loader(Loader):
    """Makes the module and does not run it."""

    def __init__(self, loader: Loader, given: Mapping[str, Any]) -> None:
        self._loader, self._given = loader, given

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(self._given)
        module.__dict__["__run__"] = _once(module, self._loader.exec_module)
        module.__class__ = _PutOff


class _PutOff(ModuleType):
    __run__: Callable[[], None]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for some that a module may lack
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__run__()
        return ModuleType.__getattribute__(self, name)  # while it runs it may lack this


class _Turn:
    """Of the one thread that runs put-off modules. It may have to wait for what another thread imports, which waits for
    its turn: then that one goes on with what is there, as everybody does in a circle of imports."""

    def __init__(self) -> None:
        self._lock, self._taken = RLock(), 0
        self._seen: Any = _bootstrap._ModuleLock("put off")  # type: ignore[attr-defined]
        """Never acquired: of a thread that has it, it tells whether it waits for this one at the import system's locks,
        which cannot see ours."""

    def take(self) -> bool:
        """False: whose turn it is waits for this thread."""
        while not self._lock.acquire(timeout=LOOK_SECONDS):
            if self._seen.has_deadlock():
                return False
        self._taken, self._seen.owner = self._taken + 1, get_ident()
        return True

    def give(self) -> None:
        self._taken -= 1
        if not self._taken:
            self._seen.owner = None
        self._lock.release()


_TURN = _Turn()


def _once(module: ModuleType, execute: Callable[[ModuleType], None]) -> Callable[[], None]:
    begun = False

    def run() -> None:
        nonlocal begun
        if (
            not _TURN.take()
        ):  # another thread waits until all of it is there; this one may ask for what is not there yet
            return
        try:
            if begun:
                return
            begun = True
            try:
                if isinstance(before := sys.modules.get(_BEFORE.get(module.__name__, "")), _PutOff):
                    before.__run__()
                execute(module)
            except BaseException:
                begun = False
                raise
            module.__class__ = ModuleType
        finally:
            _TURN.give()

    return run
