"""The other ranks of a model that is split: processes of their own, which live no longer than this one."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from chatpager.config import EngineConfig
from chatpager.engine import rank_frames
from chatpager.engine.rank_frames import Answer, Failed, Meet, Settings
from chatpager.engine.tensor_parallel import Part, Sums
from chatpager.errors import EngineError, ModelLoadError, RankLost

log = logging.getLogger(__name__)

MODULE = "chatpager.engine.rank_child"
_DEATH_SECONDS = 5.0
"""From a rank's last word to its end."""


class Child(NamedTuple):
    """``life`` is the end of a pipe that only this process has: with it the other end, and so the child, goes."""

    process: subprocess.Popen[bytes]
    life: int


class Ranks:
    """All ranks but the first, which is this process. One thread uses them.

    Every method raises RankLost where one of them has ended, and from then on always: what the others have computed is
    not what this one has.
    """

    def __init__(self, config: EngineConfig, threads: int) -> None:
        """Start them; ``ready`` waits until they have loaded their parts of the model."""
        self.size = config.tensor_parallel_size
        self._model = config.model
        self.sums = Sums()
        self.lost: RankLost | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="chatpager-ranks-")
        self._place = Path(self._folder.name) / "meeting"
        self._children: list[Child] = []
        self.close = weakref.finalize(self, _end, self._children, self._folder)
        """End them, once."""
        for rank in range(1, self.size):
            self._children.append(_start())
            self._write(rank, Settings(config, rank, str(self._place), threads))

    def ready(self) -> None:
        """Raises ModelLoadError: one of them could not load its part."""
        try:
            self._answers()
        except RankLost:
            raise
        except EngineError as error:
            raise ModelLoadError(self._model, str(error)) from error
        for rank, child in enumerate(self._children, 1):
            watch = _watch, (child.process, rank, self.close, self.sums)
            threading.Thread(target=watch[0], args=watch[1], name=f"chatpager-rank-{rank}", daemon=True).start()

    def meet(self, device: Any) -> None:
        self.tell(Meet())
        self.sums.meet(Part(0, self.size), self._place, device)

    def tell(self, message: rank_frames.Down) -> None:
        for rank in range(1, self.size):
            self._write(rank, message)

    def tell_each(self, messages: Sequence[rank_frames.Down]) -> None:
        """The first message is for rank 1."""
        for rank, message in enumerate(messages, 1):
            self._write(rank, message)

    def ask(self, message: rank_frames.Down) -> list[Any]:
        """What each of them answers. Raises EngineError: one of them could not do it."""
        self.tell(message)
        return self._answers()

    @contextmanager
    def beside(self, message: rank_frames.Down) -> Iterator[None]:
        """Around what all do together. Whatever goes wrong meanwhile leaves the others waiting in the middle of it, so
        it ends them."""
        self.tell(message)
        try:
            yield
        except Exception as error:
            raise self._give_up(f"rank 0 raised {type(error).__name__}") from error
        except BaseException:
            self._give_up("its step was interrupted")
            raise

    def _answers(self) -> list[Any]:
        told = [self._read(rank) for rank in range(1, self.size)]
        for rank, answer in enumerate(told, 1):
            if isinstance(answer, Failed):
                raise EngineError(f"rank {rank} of {self.size}: {answer.why}")
        return [answer.value for answer in told if isinstance(answer, Answer)]

    def _write(self, rank: int, message: Any) -> None:
        if self.lost:
            raise self.lost
        pipe = self._children[rank - 1].process.stdin
        assert pipe is not None
        try:
            pipe.write(rank_frames.framed(message))
            pipe.flush()
        except OSError as error:
            raise self._give_up(f"rank {rank} does not read") from error

    def _read(self, rank: int) -> rank_frames.Up:
        if self.lost:
            raise self.lost
        pipe: Any = self._children[rank - 1].process.stdout
        try:
            return rank_frames.up.decode(rank_frames.read(pipe))
        except (OSError, EOFError) as error:
            raise self._give_up(f"rank {rank} does not answer") from error

    def _give_up(self, why: str) -> RankLost:
        """For good. Which of them ended first tells more than who noticed it."""
        if self.lost is None:
            ended = next(filter(None, map(_how_it_ended, range(1, self.size), self._children)), None)
            self.lost = RankLost(ended or why, self.size)
            self.close()
        return self.lost


def _start() -> Child:
    theirs, life = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", MODULE, str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(theirs,),
            start_new_session=True,  # a terminal's Ctrl+C is the first rank's to answer
        )
    except BaseException:
        os.close(life)
        raise
    finally:
        os.close(theirs)
    return Child(process, life)


def _how_it_ended(rank: int, child: Child) -> str | None:
    """None of one that lives; who has just ended may take a moment to be seen to have."""
    with suppress(subprocess.TimeoutExpired):
        code = child.process.wait(_DEATH_SECONDS / 10)
        return f"rank {rank} has ended with " + (f"signal {-code}" if code < 0 else f"exit status {code}")
    return None


def _watch(process: subprocess.Popen[bytes], rank: int, close: weakref.finalize[Any, Any], sums: Sums) -> None:
    code = process.wait()
    if close.alive:  # nobody has ended it
        log.error("rank %d of a model that is split has ended: %s", rank, code)
        sums.abort()


def _end(children: list[Child], folder: tempfile.TemporaryDirectory[str]) -> None:
    """They have nothing to lose."""
    for child in children:
        child.process.kill()
        os.close(child.life)
    for child in children:
        child.process.wait()
        for pipe in (child.process.stdin, child.process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it did not read
                    pipe.close()
    folder.cleanup()
