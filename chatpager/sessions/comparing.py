"""Where the prompts of two turns part: why the second could not use what the first left in the cache.

A prompt is made again from what is stored, by the same rules as when it was asked; what the engine was given then and
what is compared here are the same ids, as long as the model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from chatpager.engine.chat_template import ChatMessage
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import RequestError, ResponseNotFound, shown
from chatpager.sessions.around import around_of
from chatpager.sessions.prompting import Prompting, Question
from chatpager.sessions.receipt import Break, common_prefix
from chatpager.store import Store, Turn

SHOWN_TOKENS = 12
"""Of each prompt, from where they part."""


class Asked(NamedTuple):
    """What a turn asked the model."""

    id: str
    model: str
    messages: Sequence[ChatMessage]
    token_ids: Sequence[int]


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The first token that differs, the message it stands in (instructions count as one; None: in none of them) and
    what each prompt goes on with."""

    token: int
    message: int | None
    role: str | None
    first: str
    second: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of both prompts and of their common beginning; ``reusable_tokens`` of it the second prompt need not
    compute, if they are still cached. ``diverged`` is None where one prompt is the beginning of the other."""

    first: str
    second: str
    first_tokens: int
    second_tokens: int
    block_size: int
    common_tokens: int
    reusable_tokens: int
    same_model: bool
    diverged: Divergence | None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt against that of an earlier turn; not ``found``: there is none, or it cannot be asked any more."""

    found: bool
    same_model: bool = True
    earlier_tokens: int = 0
    common_tokens: int = 0


class Comparing:
    def __init__(self, store: Store, prompting: Prompting, tokenizer: Tokenizer) -> None:
        self._store = store
        self._prompting = prompting
        self._tokenizer = tokenizer

    async def asked(self, tenant: str, name: str) -> Asked:
        """What a response asked, or the last one of a conversation.

        Raises:
            ResponseNotFound, ConversationNotFound: there is none.
        """
        if name.startswith("conv_"):
            await self._store.session(tenant, name)
            turns = await self._store.turns_of(tenant, name, latest=1)
            if not turns:
                raise ResponseNotFound(f"conversation {shown(name)} has no turn yet")
            turn = turns[-1]
        else:
            turn = await self._store.turn(tenant, name)
        return await self._asked(turn)

    async def _asked(self, turn: Turn) -> Asked:
        chain = await self._store.load_chain(turn.tenant, turn.input_tip)
        asks = turn.request.get("generate", True)
        question = await self._prompting.question(turn.tenant, chain, around_of(turn.request), asks=asks)
        return Asked(turn.id, turn.model, question.messages, question.prompt.token_ids)

    async def compare(self, tenant: str, earlier: str, model: str, prompt: Sequence[int]) -> Compared:
        """A prompt that is about to be asked against an earlier response's; one that cannot be asked any more is not
        found."""
        try:
            other = await self._asked(await self._store.turn(tenant, earlier))
        except RequestError:
            return Compared(found=False)
        return Compared(
            found=True,
            same_model=other.model == model,
            earlier_tokens=len(other.token_ids),
            common_tokens=common_prefix(prompt, other.token_ids),
        )

    async def parted(
        self, turn: Turn, asks: Question, computed: Sequence[int] | None = None, *, shown: bool = True
    ) -> Break | None:
        """Where what is about to be asked leaves an earlier ``turn``; None: nowhere, or that cannot be asked any more.
        ``computed``: the turn's prompt and its answer, where they are known. ``shown``: what it says there, too."""
        try:
            earlier = await self._asked(turn)
        except RequestError:
            return None
        then, now = earlier.token_ids, asks.prompt.token_ids
        if computed is not None and common_prefix(then, computed) == len(then):
            then = computed
        common = common_prefix(then, now)
        if common in (len(then), len(now)):
            return None
        place: int | None = len(earlier.messages)  # its answer's
        if common < len(earlier.token_ids):
            place = _first_other(earlier.messages, asks.messages)
        known = place is not None and place < len(asks.messages)
        return Break(
            response_id=turn.id,
            token_index=common,
            message_index=place,
            role=asks.messages[place].role if place is not None and known else None,
            expected=self._shown(then[common:]) if shown else None,
            got=self._shown(now[common:]),
        )

    async def explain(self, tenant: str, first: str, second: str, block_size: int) -> Explanation:
        """Raises ResponseNotFound, ConversationNotFound."""
        a, b = await self.asked(tenant, first), await self.asked(tenant, second)
        common = common_prefix(a.token_ids, b.token_ids)
        return Explanation(
            first=a.id,
            second=b.id,
            first_tokens=len(a.token_ids),
            second_tokens=len(b.token_ids),
            block_size=block_size,
            common_tokens=common,
            reusable_tokens=min(common, len(b.token_ids) - 1),
            same_model=a.model == b.model,
            diverged=self._divergence(a, b, common),
        )

    def _divergence(self, a: Asked, b: Asked, common: int) -> Divergence | None:
        if common in (len(a.token_ids), len(b.token_ids)):
            return None
        place = _first_other(a.messages, b.messages)
        return Divergence(
            token=common,
            message=place,
            role=b.messages[place].role if place is not None else None,
            first=self._shown(a.token_ids[common:]),
            second=self._shown(b.token_ids[common:]),
        )

    def _shown(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids[:SHOWN_TOKENS], skip_special_tokens=False)


def _first_other(a: Sequence[ChatMessage], b: Sequence[ChatMessage]) -> int | None:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
