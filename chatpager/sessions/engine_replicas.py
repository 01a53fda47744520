"""Several engines behind the seam of one. A turn goes where its conversation's blocks are, or will be; one whose engine
dies goes on with another, behind the tokens that were told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from chatpager.engine.facts import EngineFacts
from chatpager.engine.heads import LeaseEvent
from chatpager.engine.messages import (
    AddRequest,
    AttendRequest,
    CancelRequest,
    CloseSession,
    CloseTenant,
    Command,
    DraftRequest,
    ForkSession,
    LeaseRequest,
    PublishPrefix,
    ReleaseLease,
    RewindSession,
    StepOutput,
    WithdrawPrefix,
)
from chatpager.engine.questions import (
    BlockWanted,
    CacheOf,
    ChangesTaken,
    EventsWanted,
    LeaseWanted,
    Prefetch,
    Publishing,
    Question,
    StatsWanted,
)
from chatpager.engine.servant import Asked
from chatpager.errors import EngineStopped, InvalidRequest
from chatpager.sessions.engine_host import EngineHost, Hearers, ReplicaState
from chatpager.sessions.moving import Moving
from chatpager.sessions.placement import POLICY, Policy
from chatpager.sessions.replica_answers import merged
from chatpager.sessions.replica_blocks import BlockNumbers
from chatpager.sessions.replica_homes import Homes

T = TypeVar("T")


class EngineReplicas(EngineHost):
    """``make`` has what makes each replica's host, by its name. It is ``alive`` while one of them is; a death is told
    only where no engine is left and none is being made. ``clock`` is in seconds and never goes back."""

    def __init__(
        self,
        make: Mapping[str, Callable[[Hearers], EngineHost]],
        hearers: Hearers,
        *,
        policy: Policy = POLICY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(hearers)
        self._hosts: dict[str, EngineHost] = {name: one(self._hearers_of(name)) for name, one in make.items()}
        self._homes = Homes(self._hosts, policy, clock)
        self._moving = Moving(self._hosts, self._homes, hearers.outputs)
        self._published: dict[str, PublishPrefix] = {}
        self._drafts: dict[str, str] = {}
        """Where what a writer is writing is computed."""
        self._blocks = BlockNumbers({})
        self._closing = self._is_over = False

    def _hearers_of(self, name: str) -> Hearers:
        return Hearers(
            outputs=partial(self._heard, name),
            leases=partial(self._heard_leases, name),
            death=partial(self._died, name),
            restart=partial(self._is_back, name),
            gone=self._count,
        )

    # -- the seam -----------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return any(host.alive for host in self._hosts.values())

    @property
    def step(self) -> int | None:
        """Of any replica; a watchdog looks at each (``engines``)."""
        return next((host.step for host in self._hosts.values() if host.step is not None), None)

    @property
    def engines(self) -> Sequence[EngineHost]:
        return list(self._hosts.values())

    async def start(self) -> EngineFacts:
        """All at once. Raises what the first of them to fail raised; then none runs."""
        made = await asyncio.gather(*(host.start() for host in self._hosts.values()), return_exceptions=True)
        if failed := [one for one in made if isinstance(one, BaseException)]:
            await self.stop()
            raise failed[0]
        facts = [one for one in made if isinstance(one, EngineFacts)]
        self._blocks = BlockNumbers({name: one.num_blocks for name, one in zip(self._hosts, facts, strict=True)})
        return min(facts, key=lambda one: one.num_blocks)

    async def stop(self) -> None:
        self._closing = True
        await asyncio.gather(*(host.stop() for host in self._hosts.values()))

    def kill(self) -> bool:
        killed = [host.kill() for host in self._hosts.values()]
        return all(killed)

    def send(self, command: Command) -> None:
        match command:
            case AddRequest():
                if not self._moving.begin(command):
                    raise EngineStopped(self.why)
            case CancelRequest():
                self._moving.cancel(command)
            case AttendRequest():
                self._moving.attend(command)
            case DraftRequest():
                self._draft(command)
            case LeaseRequest():
                self._home(command.owner).send(command)
            case ForkSession():
                self._homes.forked(command.owner, command.new_owner)
                self._home(command.owner).send(command)
            case _:
                self._send_all(command)

    def _send_all(
        self, command: CloseSession | CloseTenant | ReleaseLease | RewindSession | PublishPrefix | WithdrawPrefix
    ) -> None:
        """What is published, and what must stay nowhere: another server of these engines may have placed a conversation
        elsewhere. One that is away is told of what was deleted or published when it is back. Raises EngineStopped: no
        one could be told."""
        match command:
            case CloseSession(owner):
                self._homes.closed(owner)
            case CloseTenant(tenant):
                self._homes.closed_all(tenant)
            case PublishPrefix():
                self._publish(command)
            case WithdrawPrefix(label):
                self._homes.withdrawn(label)
                self._published.pop(label, None)
        reached = 0
        for host in self._hosts.values():
            with suppress(EngineStopped):
                host.send(command)
                reached += 1
        if not reached:
            raise EngineStopped(self.why)

    def _publish(self, command: PublishPrefix) -> None:
        self._homes.published(command.label, command.token_ids)
        self._published[command.label] = command

    def _draft(self, command: DraftRequest) -> None:
        """Where the turn will be, if that is known."""
        before = self._drafts.pop(command.owner, None)
        if command.prompt_token_ids:
            name = self._name_of_home(command.session or command.owner)
            self._drafts[command.owner] = name
            self._hosts[name].send(command)
        else:
            name = None
        if before is not None and before != name:
            with suppress(EngineStopped):
                self._hosts[before].send(DraftRequest(owner=command.owner))

    def _hand_over(self, asked: Asked) -> None:
        raise AssertionError("each replica numbers its own questions")

    async def ask(self, question: Question[T]) -> T:
        asked: Any = question
        answer: Any
        match asked:
            case LeaseWanted(request) | Prefetch(request):
                answer = await self._home(request.owner).ask(question)
            case CacheOf(owner):
                answer = await self._home(owner).ask(question)
            case BlockWanted(block_id):
                answer = await self._block(block_id)
            case ChangesTaken():
                answer = self._blocks.changes(await self._ask_all(asked))
            case EventsWanted():
                if len(self._hosts) > 1:
                    raise InvalidRequest("each replica has its own cache events: name one", param="replica")
                [(_, answer)] = await self._ask_all(question)
            case StatsWanted():
                answer = merged(question, await self._figures())
            case Publishing(command):
                answer = merged(question, [one for _, one in await self._ask_all(question)])
                self._publish(command)
            case _:
                answer = merged(question, [one for _, one in await self._ask_all(question)])
        return answer  # type: ignore[no-any-return]

    async def _block(self, block_id: int) -> Any:
        found = self._blocks.find(block_id)
        if found is None:
            return None
        name, own_id = found
        facts = await self._hosts[name].ask(BlockWanted(own_id))
        return facts and self._blocks.facts(name, facts)

    async def _figures(self) -> list[Any]:
        """Of those that do not hang. Raises EngineStopped: no replica is there."""
        found = await self.stats_of_each(None)
        if not found:
            raise EngineStopped(self.why)
        return list(found.values())

    async def _ask_all(self, question: Question[T]) -> list[tuple[str, T]]:
        """By replica, of those that are there.

        Raises:
            EngineStopped: none is.
            Exception: what the first to refuse raised.
        """
        asked = {name: host.ask(question) for name, host in self._hosts.items()}
        answers = await asyncio.gather(*asked.values(), return_exceptions=True)
        told = list(zip(asked, answers, strict=True))
        for _, answer in told:
            if isinstance(answer, BaseException) and not isinstance(answer, EngineStopped):
                raise answer
        found = [(name, answer) for name, answer in told if not isinstance(answer, BaseException)]
        if not found:
            raise EngineStopped(self.why)
        return found

    def _name_of_home(self, owner: str) -> str:
        """Raises EngineStopped: no replica is there."""
        name = self._homes.of(owner)
        if name is None:
            raise EngineStopped(self.why)
        return name

    def _home(self, owner: str) -> EngineHost:
        return self._hosts[self._name_of_home(owner)]

    # -- what replicas tell -------------------------------------------------------------------------------------------

    def _heard(self, name: str, outputs: list[StepOutput]) -> None:
        self.stepped_at = self._hosts[name].stepped_at
        self._moving.heard(name, outputs)
        self.stepped_at = 0.0

    def _heard_leases(self, name: str, events: list[LeaseEvent]) -> None:
        """What becomes of leases where a conversation was before it moved is nobody's concern."""
        theirs = [event for event in events if self._homes.of(event.owner) in (name, None)]
        if theirs:
            self._hearers.leases(theirs)

    def _died(self, name: str) -> None:
        """Others take over what runs there."""
        self._count()
        self._drafts = {writer: at for writer, at in self._drafts.items() if at != name}
        if not self._closing and not self._is_over:
            self._moving.died(name)
            self._moving.back()  # what could not be handed over as it was ending

    def _count(self) -> None:
        """Something became of a replica; nothing more will where all have ended."""
        hosts = self._hosts.values()
        self._homes.changed()
        self.restarts = sum(host.restarts for host in hosts)
        self.restarting = not self._closing and not self.alive and any(host.restarting for host in hosts)
        if not self._is_over and not self.alive and not self.restarting:
            self._is_over = True
            self._moving.clear()
            self._hearers.outputs([])
            self._hearers.death()

    def _is_back(self, name: str) -> None:
        """With an empty cache; it is to know first what is shared."""
        self._is_over = False
        self._count()
        for command in self._published.values():
            self._hosts[name].send(command)
        self._moving.back()
        self._hearers.restart()

    # -- for who looks after them -------------------------------------------------------------------------------------

    def replicas(self) -> list[ReplicaState]:
        work = self._moving.parts.work()
        return [
            host.state(
                name,
                draining=name in self._homes.draining,
                answers=sum(len(part.tokens) for part in self._moving.parts.at(name)),
                work=int(work.get(name, 0.0)),
            )
            for name, host in self._hosts.items()
        ]

    def place_of(self, owner: str) -> str | None:
        return self._homes.of(owner)

    def drain(self, name: str, *, drains: bool = True) -> None:
        self.replica(name)
        self._homes.drain(name, drains)
