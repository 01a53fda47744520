"""One turn's life: what each step of the engine adds to the answer. No I/O."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from msgspec import UNSET, UnsetType
from structlog.contextvars import get_contextvars

from chatpager.engine.answer_marks import unmarked
from chatpager.engine.call_parser import AnswerParser
from chatpager.engine.detokenizer import TextStream
from chatpager.engine.grammar_compiler import Compiled
from chatpager.engine.messages import FinishReason, StepOutput, Usage
from chatpager.engine.token_spelling import Spelled
from chatpager.sessions.answers import Answer, AnswerReader, Delta, Said, answer_of
from chatpager.sessions.comparing import Compared
from chatpager.sessions.logprobs import PlacedLogprobs
from chatpager.sessions.placing import PlacingReader
from chatpager.sessions.receipt import Break, KeyDomain, Receipt
from chatpager.sessions.remembered import Past
from chatpager.sessions.stream import Ended, Timings, TurnStream
from chatpager.sessions.turn_request import TurnRequest, choice_id
from chatpager.sessions.turn_states import DECODE, ENDINGS, OVER, TRANSITIONS, Happening, TurnState
from chatpager.store import EndStatus, JournalEntry, MessageHash


class LiveTurn:
    """A turn that runs: answer number ``index`` of its request. ``take`` is given each output of the engine; what it
    returns is journalled, then shown. ``spell``: logprobs are told with the text, their tokens spelled so."""

    __slots__ = (
        "_eos",
        "_first",
        "_is_plain",
        "_journalled",
        "_last",
        "_reader",
        "_reasoning_tokens",
        "_said",
        "_submitted",
        "_text",
        "broken",
        "client_session",
        "compared",
        "compiled",
        "created_at",
        "error",
        "finish",
        "id",
        "index",
        "input_tip",
        "is_deleted",
        "is_read",
        "logprobs",
        "owner",
        "parent",
        "past",
        "previous",
        "previous_domain",
        "prompt",
        "receipt",
        "request",
        "request_id",
        "state",
        "stream",
        "template",
        "token_ids",
        "usage",
    )

    input_tip: MessageHash | None
    previous: Sequence[int] | None
    past: Past | None
    """The same, where this server computed it and remembers it."""
    previous_domain: KeyDomain | None
    """Else, where its blocks were, if that is known."""
    compared: Compared | None
    broken: Break | UnsetType | None
    owner: str
    """The head in the engine that this turn moves."""
    is_deleted: bool
    """With its conversation, at another server of the same database."""
    parent: MessageHash | None
    """Where that head stood."""
    compiled: Compiled | None
    """Its grammar, held for the engine."""
    usage: Usage | None
    receipt: Receipt | None
    finish: FinishReason | None
    error: tuple[str, str] | None

    def __init__(
        self,
        request: TurnRequest,
        prompt: Sequence[int],
        text: TextStream,
        *,
        index: int = 0,
        parser: AnswerParser | None = None,
        spell: Callable[[int], Spelled] | None = None,
        template: str,
        eos: frozenset[int],
        created_at: int,
        submitted: float,
    ) -> None:
        self.input_tip = self.previous = self.past = self.previous_domain = self.compared = self.parent = None
        self.compiled = self.usage = self.receipt = self.finish = self.error = None
        self.broken, self.owner, self.is_deleted = UNSET, "", False
        self.request = request
        self.index = index
        self.id = choice_id(request.id, index)
        self.prompt = prompt
        self.template = template
        self.created_at = created_at
        self.request_id: str | None = get_contextvars().get("request_id")
        """Of the call that began it, for the log."""
        self.client_session: str | None = get_contextvars().get("client_session")
        """What the client calls the session that the call was of, for the log."""
        self.stream = TurnStream()
        self.is_read = True
        """By somebody, as far as the engine was told."""
        self.state = TurnState.QUEUED
        self.token_ids: list[int] = []
        self.logprobs: list[PlacedLogprobs] = []
        """Of its tokens, where the request's parameters ask for them, but not with the text."""
        self._text = text
        self._reader = PlacingReader(self.id, parser, spell) if spell else AnswerReader(self.id, parser)
        self._is_plain = request.generate and parser is None and spell is None
        """All that it says is text."""
        self._said: list[Said] = []
        """Of any other."""
        self._reasoning_tokens = 0
        self._eos = eos
        self._journalled = 0
        self._submitted = submitted
        self._first: float | None = None
        self._last: float | None = None

    @property
    def text(self) -> str:
        """As it was generated; ``answer`` is what that says."""
        return self._text.text

    def answer(self) -> Answer:
        """Nothing is added to it any more."""
        if self._is_plain:
            return Answer(unmarked(self.text), (), 0)
        self._said += self._reader.finish()
        return answer_of(self._said)

    @property
    def stop_string(self) -> str | None:
        """The one that ended the text."""
        return self._text.stopped

    @property
    def stopped_by_string(self) -> bool:
        return self._text.stopped is not None

    @property
    def status(self) -> EndStatus:
        assert self.finish is not None, "the turn runs"
        return ENDINGS[self.finish]

    def happen(self, what: Happening) -> None:
        """Move along the table; an arrow that is not there is a bug."""
        assert (self.state, what) in TRANSITIONS, f"{what} in state {self.state} of turn {self.id}"
        self.state = TRANSITIONS[self.state, what]

    def take(self, output: StepOutput, now: float) -> tuple[list[Said], JournalEntry | None]:
        """What one output added, and the journal entry that must be written before anyone sees it."""
        if self.state is DECODE:
            if self._is_plain and (taken := self._take_plain(output, now)):
                return taken
        elif self.state in OVER:
            return [], None
        if output.usage:
            self.usage = output.usage
        if output.prefilled:
            self.happen(Happening.PREFILLED)
        said: list[Said] = []
        text = self._text
        for i, token_id in enumerate(output.token_ids if self.request.generate else ()):
            if text.stopped is not None:
                break  # what the engine computed past the stop string is not part of the answer
            if self.state is not DECODE:
                self.happen(Happening.TOKEN)
                self._first = now
            self.token_ids.append(token_id)
            if output.logprobs:
                self._place(PlacedLogprobs(text.length, output.logprobs[i]))
            said += self._read(text.push(token_id))
            self._last = now
        if output.finish_reason:
            said += self._reader.read(self._close(output)) + self._reader.finish()
        if not self._is_plain:
            self._said += said
        return said, self._entry(said)

    def _take_plain(self, output: StepOutput, now: float) -> tuple[list[Said], JournalEntry | None] | None:
        """``take`` of what nearly all outputs are, one more token of plain text, in fewer calls. None, and nothing is
        done, of any other."""
        if output.finish_reason or output.usage or output.prefilled or output.logprobs or len(output.token_ids) != 1:
            return None
        [token_id] = output.token_ids
        if token_id in self._eos or not (text := self._text.push_plain(token_id)):
            return None
        ids, first = self.token_ids, self._journalled
        ids.append(token_id)
        self._journalled, self._last = len(ids), now
        return [Delta(text)], JournalEntry(turn_id=self.id, first_index=first, token_ids=ids[first:], text=text)

    def _place(self, placed: PlacedLogprobs) -> None:
        if isinstance(self._reader, PlacingReader):
            self._reader.place(placed)
        else:
            self.logprobs.append(placed)

    def _read(self, text: str) -> list[Said]:
        """What a token's text says. The tags around thoughts count as thought."""
        reader = self._reader
        if not reader.parses:
            return reader.read(text)
        was_thinking = reader.is_thinking
        said = reader.read(text)
        self._reasoning_tokens += was_thinking or reader.is_thinking
        return said

    def _entry(self, said: Sequence[Said]) -> JournalEntry | None:
        """What the journal lacks of ``answer_ids``. A last token that may be the closing one waits for the next, which
        tells that it was not; but what goes on needs a token, because entries are named by their first."""
        ids = self.token_ids
        first, end = self._journalled, len(ids)
        text = "".join([event.text for event in said if isinstance(event, Delta)])
        if ids and ids[-1] in self._eos and not (said and first == end - 1 and self.state is DECODE):
            end -= 1
        self._journalled = end
        if first == end and not text:
            return None
        return JournalEntry(turn_id=self.id, first_index=first, token_ids=ids[first:end], text=text)

    def fail(self, code: str, message: str) -> None:
        """End, or end otherwise, for a reason outside the engine's outputs."""
        if self.state is not TurnState.CLOSING:
            self.happen(Happening.LAST)
        self.finish, self.error = FinishReason.ERROR, (code, message)

    def _close(self, output: StepOutput) -> str:
        self.happen(Happening.LAST)
        text = self._text.finish()
        self.finish = FinishReason.STOP if self.stopped_by_string else output.finish_reason
        if self.finish is FinishReason.LENGTH and not self.request.generate:
            self.finish = FinishReason.STOP
        if output.error_code:
            self.error = (output.error_code, output.error_message or output.error_code)
        return text

    # -- the account --------------------------------------------------------------------------------------------------

    def answer_ids(self) -> list[int]:
        """The generated ids without the one that ended the answer: the template writes that one itself."""
        return self.token_ids[:-1] if self._closed else list(self.token_ids)

    @property
    def _closed(self) -> bool:
        return bool(self.token_ids) and self.token_ids[-1] in self._eos

    @property
    def committed(self) -> int:
        """Tokens of prompt and answer whose keys and values were written, as far as the engine has said: a token tells
        it of all before. Past a stop string it may be more than there are ids."""
        said = self.usage.committed_tokens if self.usage else 0
        return max(said, len(self.prompt) + len(self.token_ids) - 1) if self.token_ids else said

    def computed_ids(self) -> Sequence[int]:
        """Every token whose keys and values were written: at the most all but the last sampled."""
        ids = array("I", self.prompt)
        ids.extend(self.token_ids)
        return ids[: self.committed]

    def forget_prompt(self) -> None:
        """Once all is stored: to tell the turn again its length is enough, and its events say what was answered."""
        self.prompt = range(len(self.prompt))
        self.previous = self.past = None
        self.token_ids = self.token_ids[:1]
        self._said = []
        self._text.forget()

    def _cache_write_tokens(self) -> int:
        """Tokens that this turn added to the cache: none where nothing is cached."""
        r = self.receipt
        if r is None or r.miss_reason == "disabled":
            return 0
        return self.committed - r.cached_tokens

    def timings(self, now: float) -> Timings:
        spent = self._last - self._first if self._first is not None and self._last is not None else 0.0
        return Timings(
            queue_ms=_ms(self.usage.queue_seconds if self.usage else 0.0),
            prefill_ms=_ms(self.usage.prefill_seconds if self.usage else 0.0),
            ttft_ms=_ms(self._first - self._submitted) if self._first is not None else None,
            decode_tok_s=round((len(self.token_ids) - 1) / spent, 1) if spent > 0 else None,
            total_ms=_ms(now - self._submitted),
        )

    def stored_usage(self, ended: Ended) -> dict[str, int]:
        return {
            "input_tokens": len(self.prompt),
            "cached_tokens": self.receipt.cached_tokens if self.receipt else 0,
            "cache_write_tokens": ended.cache_write_tokens,
            "output_tokens": ended.output_tokens,
            **({"reasoning_tokens": ended.reasoning_tokens} if ended.reasoning_tokens else {}),
        }

    def ended(self, now: float, at: int, status: EndStatus | None = None) -> Ended:
        """The last event: ``now`` on the hub's clock, ``at`` on the wall's."""
        return Ended(
            status=status or self.status,
            finish=self.finish.value if self.finish else "interrupted",
            at=at,
            **self.answer()._asdict(),
            output_tokens=len(self.token_ids),
            reasoning_tokens=self._reasoning_tokens,
            receipt=self.receipt,
            cache_write_tokens=self._cache_write_tokens(),
            timings=self.timings(now),
            error_code=self.error[0] if self.error else None,
            error_message=self.error[1] if self.error else None,
        )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
