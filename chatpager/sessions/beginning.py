"""From a request to turns that are ready to be stored and asked: one, or one for each of several answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from chatpager.engine.chat_template import Prompt
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import ContextLengthExceeded, InvalidRequest, ResponseNotFound
from chatpager.sessions.around import around_of
from chatpager.sessions.comparing import Comparing
from chatpager.sessions.history import history_of
from chatpager.sessions.orphans import Orphans
from chatpager.sessions.prompting import Prompting, Question
from chatpager.sessions.receipt import Break, KeyDomain
from chatpager.sessions.remembered import Remembered
from chatpager.sessions.rereading import READ_AS, Reading
from chatpager.sessions.title import first_words
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import TurnRequest
from chatpager.store import Message, NewMessage, NewTurn, Store, Turn

MAX_TENANTS = 1 << 12
"""Whose last turn is remembered."""


class Begun(NamedTuple):
    """A turn, and the row that it begins with."""

    turn: LiveTurn
    row: NewTurn


class Before(NamedTuple):
    """What was computed for a conversation's last turn (None: not known, or with another vocabulary), and where its
    blocks were, if the turn's receipt tells."""

    token_ids: Sequence[int] | None
    domain: KeyDomain | None


class Served(NamedTuple):
    """What the model that is served allows and means. ``max_choices``: sequences in one step."""

    max_model_len: int
    max_choices: int
    vocab_size: int
    eos: frozenset[int]


class Beginner:
    """``served`` is known once the model is there. ``wall`` is in milliseconds."""

    served: Served

    def __init__(
        self,
        store: Store,
        tokenizer: Tokenizer,
        prompting: Prompting,
        orphans: Orphans,
        remembered: Remembered,
        wall: Callable[[], int],
    ) -> None:
        self.comparing = Comparing(store, prompting, tokenizer)
        self._store = store
        self._tokenizer = tokenizer
        self._prompting = prompting
        self._orphans = orphans
        self._remembered = remembered
        self._wall = wall
        self._latest: OrderedDict[str, str] = OrderedDict()
        """The turn that was begun last, by tenant, of the tenants that were heard of last."""

    def check(self, request: TurnRequest) -> None:
        """Raises InvalidRequest where the parameters or the prompt's ids are none for this model."""
        request.params.check_vocabulary(self.served.vocab_size)
        if request.params.n > self.served.max_choices:
            raise InvalidRequest(f"n is at most {self.served.max_choices} here (max_num_seqs)", param="n")
        if request.prompt is not None and not isinstance(request.prompt, str):
            outside = [i for i in request.prompt if not 0 <= i < self.served.vocab_size]
            if outside:
                message = f"prompt names token {outside[0]}, outside 0..{self.served.vocab_size - 1}"
                raise InvalidRequest(message, param="prompt")
        assert request.prompt is None or not request.stored, "a bare prompt is no message of a conversation"
        assert request.params.n == 1 or request.session_id is None, "a conversation goes on with one answer"

    async def settled(self, request: TurnRequest) -> Sequence[int]:
        """What of the request's prompt will not change any more while its last message is being written.

        Raises what ``SessionHub.submit`` does.
        """
        history, fresh = await history_of(request, self._store, self._orphans)
        conversation: list[Message | NewMessage] = [*history, *fresh]
        if not fresh:
            return []
        return await self._prompting.settled(request.tenant, conversation, request.around)

    async def _asked_before(self, history: Sequence[Message], request: TurnRequest) -> Before:
        """What was computed for the last answer in ``history``, by an earlier server or so long ago that it is not
        remembered: its prompt, and its tokens but for the last one."""
        answers = [i for i, m in enumerate(history) if m.token_ids is not None]
        if not answers:
            return Before(None, None)
        last = history[answers[-1]]
        turn = await self._turn_of(last, request)
        domain = _domain_of(turn)
        if last.vocab != self._tokenizer.fingerprint:
            return Before(None, domain)
        # What was around that turn: it is no part of the conversation, and may have changed.
        then = around_of(turn.request if turn else {})
        question = await self._prompting.question(request.tenant, history[: answers[-1]], then)
        asked = question.prompt.token_ids
        # Of a completed answer the token that ended it is not stored.
        return Before([*asked, *(last.token_ids or ())[: None if last.status == "completed" else -1]], domain)

    async def _turn_of(self, answer: Message, request: TurnRequest) -> Turn | None:
        """The turn that gave the answer."""
        if request.previous_turn_id is not None:
            return await self._store.turn(request.tenant, request.previous_turn_id)
        if request.session_id is not None:
            turns = await self._store.turns_of(request.tenant, request.session_id)
            return next((turn for turn in turns if turn.tip_hash == answer.hash), None)
        return await self._store.turn_of_answer(request.tenant, answer.hash)

    async def question(self, request: TurnRequest) -> tuple[list[Message], Sequence[NewMessage], Question]:
        """What is stored of the conversation, what the request adds, and what asks for the next message.

        Raises what ``SessionHub.submit`` does, but for the length of the prompt.
        """
        if request.prompt is not None:
            return [], [], await self._prompting.bare(request.tenant, request.prompt)
        history, fresh = await history_of(request, self._store, self._orphans)
        conversation: list[Message | NewMessage] = [*history, *fresh]
        if not conversation:
            raise InvalidRequest("the conversation is empty and there is no input", param="input")
        asked = await self._prompting.question(request.tenant, conversation, request.around, asks=request.generate)
        return history, fresh, asked

    async def begin(self, request: TurnRequest, submitted: float) -> list[Begun]:
        """The turns that ``request.params.n`` asks for, which differ in their names only: the engine is asked once.

        Raises what ``SessionHub.submit`` does.
        """
        history, fresh, question = await self.question(request)
        prompt = question.prompt
        ids, wanted = prompt.token_ids, max(1, request.params.min_tokens)
        if len(ids) + wanted > self.served.max_model_len:
            raise ContextLengthExceeded(len(ids), wanted, self.served.max_model_len)
        reading = Reading.of(
            request.params,
            templated=prompt.form != "none",  # what follows a bare prompt is text
            opened=prompt.opens_thought and request.may_think,
            may_call=request.may_call,
        )
        row = self._row(request, history, fresh, reading)
        past = self._remembered.get(row.parent_hash)
        before = Before(past.ids, None) if past else await self._asked_before(history, request)
        begun = []
        for turn in await self._turns(request, prompt, reading, row.now, submitted):
            turn.previous, turn.past, turn.previous_domain = before.token_ids, past, before.domain
            begun.append(Begun(turn, msgspec.structs.replace(row, id=turn.id)))
        if request.compare_with:
            begun[0].turn.compared = await self.comparing.compare(
                request.tenant, request.compare_with, request.model, ids
            )
        if request.explain:
            broken = await self._explained(request, history, question, before.token_ids)
            for turn, _ in begun:
                turn.broken = broken
        if request.stored:
            self._latest[request.tenant] = request.id
            self._latest.move_to_end(request.tenant)
            if len(self._latest) > MAX_TENANTS:
                self._latest.popitem(last=False)
        return begun

    def _row(
        self, request: TurnRequest, history: Sequence[Message], fresh: Sequence[NewMessage], reading: Reading
    ) -> NewTurn:
        return NewTurn(
            id=request.id,
            tenant=request.tenant,
            kind=request.kind,
            model=request.model,
            vocab=self._tokenizer.fingerprint,
            messages=fresh,
            now=self._wall(),
            session_id=request.session_id,
            previous_turn_id=request.previous_turn_id,
            parent_hash=history[-1].hash if history else None,
            client_key=request.client_key,
            request={**request.parameters, READ_AS: msgspec.to_builtins(reading)},
            title=request.title or ("" if history else first_words(fresh)),
            renames=request.title is not None,
        )

    async def _turns(
        self, request: TurnRequest, prompt: Prompt, reading: Reading, now: int, submitted: float
    ) -> list[LiveTurn]:
        told = reading.templated and request.params.logprobs is not None
        spell = await self._prompting.spelling() if told else None
        return [
            LiveTurn(
                request,
                prompt.token_ids,
                reading.text(self._tokenizer),
                index=index,
                parser=reading.parser(self._tokenizer, request.tools),
                spell=spell,
                template=prompt.form,
                eos=self.served.eos,
                created_at=now,
                submitted=submitted,
            )
            for index in range(request.params.n)
        ]

    async def _explained(
        self, request: TurnRequest, history: Sequence[Message], question: Question, computed: Sequence[int] | None
    ) -> Break | None:
        """Where the request's prompt leaves the turn it names for that, the conversation's last one, or else the one
        that its tenant began last."""
        if request.compare_with is None:
            answer = next((message for message in reversed(history) if message.token_ids is not None), None)
            with suppress(ResponseNotFound):
                if answer and (last := await self._turn_of(answer, request)):
                    return await self.comparing.parted(last, question, computed)
        name = request.compare_with or self._latest.get(request.tenant)
        if name is None:
            return None
        with suppress(ResponseNotFound):
            turn = await self._store.turn(request.tenant, name)
            past = self._remembered.get(turn.tip_hash)
            # The receipt outlives a conversation that it has nothing to do with, unless the request named it.
            shown = request.compare_with is not None
            return await self.comparing.parted(turn, question, past.ids if past else None, shown=shown)
        return None


def _domain_of(turn: Turn | None) -> KeyDomain | None:
    """As its receipt tells; earlier versions' receipts do not."""
    found = (turn.receipt or {}).get("domain") if turn else None
    return KeyDomain(found["model"], found["salt"]) if found else None
