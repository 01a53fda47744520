"""From a request to turns that are ready to be stored and asked: one, or one for each of several answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import ContextLengthExceeded, InvalidRequest
from chatpager.sessions.around import around_of
from chatpager.sessions.comparing import Comparing
from chatpager.sessions.history import history_of
from chatpager.sessions.orphans import Orphans
from chatpager.sessions.prompting import Prompting, Question
from chatpager.sessions.receipt import KeyDomain
from chatpager.sessions.remembered import Remembered
from chatpager.sessions.title import first_words
from chatpager.sessions.turn import LiveTurn, TurnRequest
from chatpager.store import Message, NewMessage, NewTurn, Store, Turn


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

    def check(self, request: TurnRequest) -> None:
        """Raises InvalidRequest where the parameters are none for this model, or name a session and several answers."""
        request.params.check_vocabulary(self.served.vocab_size)
        if request.params.n > self.served.max_choices:
            raise InvalidRequest(f"n is at most {self.served.max_choices} here (max_num_seqs)", param="n")
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
        history, fresh, (_, prompt) = await self.question(request)
        ids, wanted = prompt.token_ids, max(1, request.params.min_tokens)
        if len(ids) + wanted > self.served.max_model_len:
            raise ContextLengthExceeded(len(ids), wanted, self.served.max_model_len)
        now = self._wall()
        parent = history[-1].hash if history else None
        row = NewTurn(
            id=request.id,
            tenant=request.tenant,
            kind=request.kind,
            model=request.model,
            vocab=self._tokenizer.fingerprint,
            messages=fresh,
            now=now,
            session_id=request.session_id,
            previous_turn_id=request.previous_turn_id,
            parent_hash=parent,
            client_key=request.client_key,
            request=request.parameters,
            title="" if history else first_words(fresh),
        )
        past = self._remembered.get(parent)
        before = Before(past.ids, None) if past else await self._asked_before(history, request)
        begun = []
        for index in range(request.params.n):
            text = self._tokenizer.text_stream(request.params)
            turn = LiveTurn(
                request, ids, text, index=index, parser=self._tokenizer.call_parser, template=prompt.form,
                eos=self.served.eos, created_at=now, submitted=submitted,
            )  # fmt: skip
            turn.previous, turn.past, turn.previous_domain = before.token_ids, past, before.domain
            begun.append(Begun(turn, msgspec.structs.replace(row, id=turn.id)))
        if request.compare_with:
            begun[0].turn.compared = await self.comparing.compare(
                request.tenant, request.compare_with, request.model, ids
            )
        return begun


def _domain_of(turn: Turn | None) -> KeyDomain | None:
    """As its receipt tells; earlier versions' receipts do not."""
    found = (turn.receipt or {}).get("domain") if turn else None
    return KeyDomain(found["model"], found["salt"]) if found else None
