"""An answer's ids, read again as they were read when they were generated.

Of an answer that a crash cut, the store has the text that was told and the ids. What was thought, and what was called
that far, is in the ids: here they go through the reader that the turn had.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from chatpager.engine.call_parser import AnswerParser
from chatpager.engine.detokenizer import TextStream
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.tokenizer import Tokenizer
from chatpager.engine.tool_calls import Tool
from chatpager.sessions.answers import Answer, AnswerReader, answer_content, answer_of, calls_of
from chatpager.sessions.around import tools_of
from chatpager.sessions.mistakes import log_mistake
from chatpager.store import Content, Journaled, Message, Turn, text_content, text_of

READ_AS = "read_as"
"""Where a turn's stored request has its ``Reading``."""


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a turn's tokens are read, besides what its tokenizer and its tools say. Not ``templated``: all is text.
    ``opened``: the prompt ends with what opens the thoughts. Unless it ``may_call``, a call is text. The rest as in
    ``SamplingParams``."""

    templated: bool = True
    opened: bool = False
    may_call: bool = False
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    min_tokens: int = 0

    @classmethod
    def of(cls, params: SamplingParams, *, templated: bool, opened: bool, may_call: bool) -> Reading:
        return cls(
            templated=templated,
            opened=opened,
            may_call=may_call,
            stop=tuple(params.stop),
            include_stop=params.include_stop_str_in_output,
            min_tokens=params.min_tokens,
        )

    def text(self, tokenizer: Tokenizer) -> TextStream:
        params = SamplingParams(
            max_tokens=None, stop=self.stop, include_stop_str_in_output=self.include_stop, min_tokens=self.min_tokens
        )
        return tokenizer.text_stream(params, marked=self.templated)

    def parser(self, tokenizer: Tokenizer, tools: Sequence[Tool]) -> AnswerParser | None:
        called = {tool.name: tool for tool in tools} if self.may_call else None
        return tokenizer.answer_parser(called, opened=self.opened) if self.templated else None


class Rereader:
    """A long answer takes milliseconds that the event loop does not have: it is read in another thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def content(self, turn: Turn, kept: Journaled) -> Content:
        """What a live turn had told, as its message's content; for ``Store.recover``."""
        answer = self._safely(turn, kept.token_ids, kept.text)
        return answer_content(answer.text, answer.calls) if answer else text_content(kept.text)

    async def answer(self, turn: Turn, token_ids: Sequence[int], told: str) -> Answer | None:
        """What these ids of a turn say, of which ``told`` is all the text that was told. What was held back when the
        last of them came counts if its text is in that.

        None: it cannot be known. They are of another vocabulary, an earlier version began the turn, or they do not say
        what was told.
        """
        return await asyncio.to_thread(self._safely, turn, token_ids, told)

    def _safely(self, turn: Turn, token_ids: Sequence[int], told: str) -> Answer | None:
        """A mistake of ours in one answer must keep no server from starting, and no other turn from ending."""
        try:
            return self._answer(turn, token_ids, told)
        except Exception as error:
            log_mistake("turn.not_read_again", error)
            return None

    def _answer(self, turn: Turn, token_ids: Sequence[int], told: str) -> Answer | None:
        if turn.vocab != self._tokenizer.fingerprint or READ_AS not in turn.request:
            return None
        reading = msgspec.convert(turn.request[READ_AS], Reading)
        return self._read(reading, tools_of(turn.request), turn.id, token_ids, told)

    async def kept(self, message: Message, turns: Sequence[Turn]) -> Answer | None:
        """What an answer says whose turn is not known, read as one of ``turns`` was; None where no way gives its text.
        What it says is in its ids, so it is no matter whose reading that was."""
        if message.vocab != self._tokenizer.fingerprint or not message.token_ids:
            return None
        return await asyncio.to_thread(self._kept, message, message.token_ids, turns)

    def _kept(self, message: Message, token_ids: Sequence[int], turns: Sequence[Turn]) -> Answer | None:
        told = text_of(message.content)
        for reading, tools in _readings(turns):
            try:
                found = self._read(reading, tools, message.hash, token_ids, told)
            except Exception as error:
                log_mistake("answer.not_read_again", error)
                continue
            if found is not None:
                return Answer(told, tuple(calls_of(message.content)), found.calls_before_text, found.reasoning)
        return None

    def _read(
        self, reading: Reading, tools: Sequence[Tool], name: str, token_ids: Sequence[int], told: str
    ) -> Answer | None:
        text = reading.text(self._tokenizer)
        reader = AnswerReader(name, reading.parser(self._tokenizer, tools))
        said = [event for token_id in token_ids for event in reader.read(text.push(token_id))]
        rest = [*reader.read(text.finish()), *reader.finish()]
        found = (answer_of(events) for events in ([*said, *rest], said))
        return next((answer for answer in found if answer.text == told), None)


def _readings(turns: Sequence[Turn]) -> list[tuple[Reading, Sequence[Tool]]]:
    """The different ones of these turns, the latest first, and those of an answer without tools."""
    found: list[tuple[Reading, Sequence[Tool]]] = []
    for turn in reversed(turns):
        if READ_AS in turn.request:
            one = (msgspec.convert(turn.request[READ_AS], Reading), tools_of(turn.request))
            found += [] if one in found else [one]
    return [*found, (Reading(), ()), (Reading(opened=True), ())]
