"""Which tokens a piece of an answer's text was made of, so that their logprobs are told with it."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from chatpager.engine.answer_marks import with_tags_spelled
from chatpager.engine.call_parser import AnswerParser
from chatpager.engine.token_spelling import Spelled
from chatpager.sessions.answers import AnswerReader, Delta, Said, joined
from chatpager.sessions.logprobs import PlacedLogprobs, spelled

At = tuple[Said, list[int]]
"""What is said, and where the characters that it is made of stand in the text as it was generated."""


class PlacingReader(AnswerReader):
    """Of each token that was placed before its text was read, the logprobs go with the first text that has a character
    of it; those of tokens that only make thoughts, calls and what stands around them are told with nothing. A token
    without a character of its own, part of one perhaps, goes where the next one goes."""

    __slots__ = ("_left", "_length", "_places", "_spell")

    def __init__(self, turn_id: str, parser: AnswerParser | None, spell: Callable[[int], Spelled]) -> None:
        super().__init__(turn_id, parser)
        self._spell = spell
        self._left: deque[PlacedLogprobs] = deque()
        self._length = 0
        self._places: list[int] = []
        """Of the characters that the parser holds back; a mark that is read as it is spelled has one place."""

    def place(self, placed: PlacedLogprobs) -> None:
        self._left.append(placed)

    def read(self, text: str) -> list[Said]:
        """By single characters: what a parser lets go of at one of them is told or swallowed as a whole."""
        found: list[At] = []
        for char in text:
            for part in with_tags_spelled(char) if self._parser else char:
                self._places.append(self._length)
                _join(found, super().read(part), self._let_go(self.held))
            self._length += 1
        said = self._with_logprobs(found)
        self._forget_swallowed()
        return said

    def finish(self) -> list[Said]:
        found: list[At] = []
        _join(found, super().finish(), self._let_go(0))
        return self._with_logprobs(found)

    def _let_go(self, held: int) -> list[int]:
        gone = len(self._places) - held
        places, self._places = self._places[:gone], self._places[gone:]
        return places

    def _with_logprobs(self, found: Sequence[At]) -> list[Said]:
        return [
            msgspec.structs.replace(said, logprobs=tuple(spelled(one.sampled, self._spell) for one in self._of(places)))
            if isinstance(said, Delta)
            else said
            for said, places in found
        ]

    def _forget_swallowed(self) -> None:
        """No text comes any more that a token behind all that is held back could go with."""
        first = self._places[0] if self._places else self._length
        begun = max((token.offset for token in self._left if token.offset <= first), default=0)
        while self._left and self._left[0].offset < begun:
            self._left.popleft()

    def _of(self, places: Sequence[int]) -> list[PlacedLogprobs]:
        """The tokens that characters at these ``places`` belong to; what is left of those before was swallowed."""
        found: list[PlacedLogprobs] = []
        waiting: list[PlacedLogprobs] = []
        while places and self._left and self._left[0].offset <= places[-1]:
            token = self._left.popleft()
            waiting.append(token)
            if self._left and self._left[0].offset == token.offset:
                continue
            first = places[bisect_left(places, token.offset)]
            if not self._left or first < self._left[0].offset:
                found += waiting
            waiting = []
        return found


def _join(found: list[At], more: Sequence[Said], places: list[int]) -> None:
    """Add what was said at ``places``; pieces of the same text are one."""
    for said in more:
        last, before = found[-1] if found else (None, [])
        if last is not None and (both := joined(last, said)):
            found[-1] = both, before + places if isinstance(said, Delta) else []
        else:
            found.append((said, places if isinstance(said, Delta) else []))
        if isinstance(said, Delta):
            places = []
