"""A rank but the first, started by it: ``python -m chatpager.engine.rank_child``. It does what comes in, in order."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

if TYPE_CHECKING:
    from chatpager.engine import rank_frames
    from chatpager.engine.split_runner import OtherRunner

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> NoReturn:
    """``arguments``: the number of a pipe's end, whose other end only the first rank has."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the first rank, which lets answers end first
        signal.signal(number, signal.SIG_IGN)
    life = int(arguments[0])
    threading.Thread(target=_live_no_longer_than, args=(life,), daemon=True).start()
    come, going = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever is printed is no frame
    _serve(come, going)
    os._exit(0)


def _live_no_longer_than(life: int) -> None:
    """Also in the middle of a step, where nobody looks at what comes in."""
    os.read(life, 1)
    os._exit(1)


def _serve(come: BinaryIO, going: BinaryIO) -> None:
    from chatpager.engine import lean_imports

    lean_imports.prepare()
    from chatpager.engine import rank_frames

    def tell(answer: rank_frames.Up) -> None:
        going.write(rank_frames.framed(answer))
        going.flush()

    try:
        runner = _load(rank_frames.settings.decode(rank_frames.read(come)))
    except Exception as error:
        tell(rank_frames.Failed(f"{type(error).__name__}: {error}"))
        return
    tell(rank_frames.Answer())
    while True:
        try:
            message = rank_frames.down.decode(rank_frames.read(come))
        except EOFError:
            return
        _carry_out(runner, message, tell)


def _load(told: rank_frames.Settings) -> OtherRunner:
    import torch

    from chatpager.engine.split_runner import OtherRunner

    torch.set_num_threads(told.threads)
    return OtherRunner(told)


def _carry_out(runner: OtherRunner, message: rank_frames.Down, tell: Any) -> None:
    from chatpager.engine import rank_frames

    match message:
        case rank_frames.Step():
            try:
                runner.follow(message)
            except Exception as error:  # the first rank raises the same, or has ended
                log.error("rank %d: a step raised %s", runner.part.rank, type(error).__name__)
                os._exit(1)
            return
        case rank_frames.WriteBlocks(ids, contents):
            runner.write_blocks(ids, contents)
            return
        case rank_frames.Meet():
            runner.meet()
            return
    try:
        tell(rank_frames.Answer(runner.answer(message)))
    except Exception as error:
        tell(rank_frames.Failed(f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main(sys.argv[1:])
