"""What changes a conversation without a turn: messages behind its last, going back to an earlier answer, and a summary
in place of what is long ago.

Nothing that a turn said or was asked is deleted: the conversation only goes on from elsewhere. Its blocks behind what
is left of it are nobody's at once, unless other conversations have them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from chatpager.errors import ContextLengthExceeded, InvalidRequest, RequestError, SessionBusy
from chatpager.sessions.around import around_of
from chatpager.sessions.heads import owner_of
from chatpager.sessions.keeping import Keeper
from chatpager.sessions.orphans import Orphans
from chatpager.sessions.prompting import Prompting
from chatpager.sessions.receipt import common_prefix
from chatpager.sessions.remembered import Past, Remembered
from chatpager.sessions.to_the_end import to_the_end
from chatpager.store import Message, MessageHash, NewMessage, Session, Store, Turn, text_content

T = TypeVar("T")
Role = Literal["system", "user", "assistant"]
INSTRUCTING = ("system", "developer")


class Revising:
    """``wall`` is in milliseconds."""

    def __init__(
        self,
        store: Store,
        prompting: Prompting,
        orphans: Orphans,
        remembered: Remembered,
        keeper: Keeper,
        wall: Callable[[], int],
    ) -> None:
        self._store = store
        self._prompting = prompting
        self._orphans = orphans
        self._remembered = remembered
        self._keeper = keeper
        self._wall = wall

    async def append(self, tenant: str, session_id: str, new: Sequence[NewMessage]) -> tuple[MessageHash, ...]:
        """Messages are added without a turn; raises what ``Store.append_messages`` does."""

        def append() -> Awaitable[tuple[MessageHash, ...]]:
            return self._store.append_messages(tenant, session_id, new, now=self._wall())

        return await self._unless_busy(tenant, append)

    async def rewind(self, tenant: str, session_id: str, turn: Turn) -> Session:
        """The conversation ends with this turn's answer again, which may also be one that it had left.

        Raises:
            ConversationNotFound, StoreError.
            InvalidRequest: it does not hold that answer.
            SessionBusy: a turn of it runs.
        """
        to = turn.tip_hash or turn.input_tip
        _, left = await self._store.conversation(tenant, session_id)
        asked = await self._asked_last(tenant, session_id)
        chain = await self._store.load_chain(tenant, to)
        # Before the change: a turn that begins after it has its own head, which is not to be cut.
        common = common_prefix(await self._ids(tenant, left, asked), await self._ids(tenant, chain, asked))

        async def change() -> Session:
            changed = await self._unless_busy(tenant, lambda: self._store.rewind_session(tenant, session_id, to=to))
            self._keeper.rewound(owner_of(tenant, session_id), common)
            return changed

        return await to_the_end(change())

    async def compact(self, tenant: str, session_id: str, summary: str, role: Role, keep: int) -> Session:
        """``summary``, said by ``role``, stands in place of everything before the last ``keep`` answers and what asked
        for them, but for what instructs the model at the very beginning. What is kept is kept token for token.

        Raises:
            ConversationNotFound, StoreError.
            InvalidRequest: nothing is older than that, or the model's template does not take the summary there.
            ContextLengthExceeded, InputTooLong: with the summary there would be no room for another turn.
            SessionBusy: a turn of it runs, or it has gone on meanwhile.
        """
        session, chain = await self._store.conversation(tenant, session_id)
        first, last = _older(chain, keep)
        said = NewMessage(role=role, content=text_content(summary))
        new = [*map(_again, chain[:first]), said, *map(_again, chain[last:])]
        asked = await self._asked_last(tenant, session_id)
        after = await self._asking(tenant, new, asked)
        if len(after) >= self._prompting.limit:
            raise ContextLengthExceeded(len(after), 1, self._prompting.limit)
        return await self._rewrite(tenant, session, new, await self._ids(tenant, chain, asked), after)

    async def put(
        self, tenant: str, session: Session, chain: Sequence[Message], place: int, instead: Sequence[NewMessage]
    ) -> Session:
        """``instead`` stands in place of a message of the session's ``chain``; what is behind it is kept.

        Raises:
            ConversationNotFound, StoreError.
            SessionBusy: a turn of it runs, or it has gone on meanwhile.
        """
        new = [*map(_again, chain[:place]), *instead, *map(_again, chain[place + 1 :])]
        asked = await self._asked_last(tenant, session.id)
        before = await self._ids(tenant, chain, asked)
        return await self._rewrite(tenant, session, new, before, await self._ids(tenant, new, asked))

    async def _rewrite(
        self, tenant: str, session: Session, new: Sequence[NewMessage], before: Sequence[int], after: Sequence[int]
    ) -> Session:
        """The session consists of ``new``, with whose ids a question begins ``after``, where it began ``before``."""

        def store() -> Awaitable[Session]:
            now = self._wall()
            return self._store.compact_session(tenant, session.id, expected=session.tip_hash, new=new, now=now)

        async def change() -> Session:
            changed = await self._unless_busy(tenant, store)
            if changed.tip_hash is not None:
                past = self._remembered.get(session.tip_hash) or Past(before, None)
                self._remembered.put(changed.tip_hash, past.ids, past.published)
            self._keeper.rewound(owner_of(tenant, session.id), common_prefix(before, after))
            return changed

        return await to_the_end(change())

    async def _asked_last(self, tenant: str, session_id: str) -> Mapping[str, Any]:
        """The parameters of the last turn: with its instructions and tools its blocks begin."""
        turns = await self._store.turns_of(tenant, session_id, latest=1)
        return turns[-1].request if turns else {}

    async def _ids(self, tenant: str, chain: Sequence[Message | NewMessage], asked: Mapping[str, Any]) -> Sequence[int]:
        """With what a question about the conversation begins; nothing of one that cannot be asked as it stands."""
        try:
            return await self._asking(tenant, chain, asked) if chain else ()
        except RequestError:
            return ()

    async def _asking(
        self, tenant: str, chain: Sequence[Message | NewMessage], asked: Mapping[str, Any]
    ) -> Sequence[int]:
        question = await self._prompting.question(tenant, chain, around_of(asked).next_turn(), asks=False)
        return question.prompt.token_ids

    async def _unless_busy(self, tenant: str, change: Callable[[], Awaitable[T]]) -> T:
        """What is busy with a turn that nobody runs any more is not."""
        try:
            return await change()
        except SessionBusy:
            await self._orphans.end(tenant)
            return await change()


def _older(chain: Sequence[Message], keep: int) -> tuple[int, int]:
    """The part of a conversation that stands before its last ``keep`` answers: from the first message to the end. Calls
    of tools and their results belong to the answer that they led to.

    Raises:
        InvalidRequest: there is none.
    """
    called = {i - 1 for i, message in enumerate(chain) if message.role == "tool"}
    answers = [i for i, message in enumerate(chain) if message.role == "assistant" and i not in called]
    last = answers[-keep - 1] + 1 if keep < len(answers) else 0
    first = next((i for i, message in enumerate(chain) if message.role not in INSTRUCTING), len(chain))
    if first >= last:
        raise InvalidRequest(f"the conversation has {len(answers)} answers: nothing is older than these", param="keep")
    return first, last


def _again(message: Message) -> NewMessage:
    return NewMessage(
        role=message.role,
        content=message.content,
        status=message.status,
        vocab=message.vocab,
        token_ids=message.token_ids,
    )
