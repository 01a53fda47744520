"""What replicas were asked to answer, and how far they came: enough to ask another one for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from chatpager.engine.messages import AddRequest, FinishReason, StepOutput
from chatpager.errors import EngineLost

MOST_MOVES = 3
"""An answer whose replicas died more often than that may be what they die of."""
EXPECTED_TOKENS = 256
"""Of an answer whose length nobody bounds, for how much work is queued."""
LOST = (EngineLost.code, "the replicas that computed this answer failed, one after the other; send it again")


@dataclass(eq=False)
class Part:
    """Answers ``indices`` of a request, which one replica computes under one ``name``. ``tokens``: what was told of
    each; what has ended is not there any more."""

    command: AddRequest
    indices: Sequence[int]
    name: str
    moves: int = 0
    replica: str | None = None
    """None: it waits for one."""
    tokens: dict[int, list[int]] = field(default_factory=dict)
    prefilled: int = 0
    """Of the prompt's tokens, as far as was told."""
    is_read: bool = True
    cancelled: set[int] = field(default_factory=set)
    """Of these the replica was asked to compute no more, and may not have heard it."""
    work: int = 0
    """Tokens left to compute, as far as can be told from outside."""

    def __post_init__(self) -> None:
        self._count()

    @classmethod
    def whole(cls, command: AddRequest) -> Part:
        indices = range(command.params.n)
        return cls(command, indices, command.request_id, tokens={index: [] for index in indices})

    def take(self, output: StepOutput) -> StepOutput:
        """What a replica told, under the request's own names. What is computed again is no progress."""
        index = self.indices[output.index]
        if output.finish_reason:
            self.tokens.pop(index, None)
        elif output.token_ids:
            self.tokens[index] += output.token_ids
        told = output.prefilled
        if told is not None and told[0] < self.prefilled:
            told = None
        elif told is not None:
            self.prefilled = told[0]
        if output.usage is None:
            self.work -= len(output.token_ids)
        else:  # with progress, the first token and the end
            self._count()
        if told is output.prefilled and self.name == self.command.request_id:
            return output
        return msgspec.structs.replace(output, request_id=self.command.request_id, index=index, prefilled=told)

    def asked(self) -> AddRequest:
        """The command for its replica."""
        if not self.moves:
            return self.command
        command, params = self.command, self.command.params
        if self._is_whole():
            return msgspec.structs.replace(command, request_id=self.name)
        (index,) = self.indices
        owners = [command.owner, *command.more_owners]
        seed = None if params.seed is None else params.seed + index
        return msgspec.structs.replace(
            command,
            request_id=self.name,
            params=msgspec.structs.replace(params, n=1, seed=seed),
            owner=owners[index] if index < len(owners) else "",
            more_owners=[],
            answered=self.tokens[index],
        )

    def _is_whole(self) -> bool:
        """All that was asked for, and nothing of it is told."""
        return len(self.tokens) == self.command.params.n and not any(self.tokens.values())

    def moved(self) -> Iterator[Part]:
        """What is left to do elsewhere."""
        return self._left(self.moves + 1)

    def askable(self) -> Iterator[Part]:
        """Of one that waited and of which answers were cancelled meanwhile what is left."""
        return iter([self]) if len(self.indices) == 1 or self._is_whole() else self._left(max(1, self.moves))

    def _left(self, moves: int) -> Iterator[Part]:
        """All at once where no token was told, else each answer by itself."""
        id = self.command.request_id
        if self._is_whole():
            names = [(self.indices, f"{id}~{moves}")]
        else:
            names = [((index,), f"{id}~{moves}.{index}") for index in self.tokens]
        for indices, name in names:
            tokens = {index: self.tokens[index] for index in indices}
            yield Part(self.command, indices, name, moves, None, tokens, self.prefilled, self.is_read)

    def ended(
        self, reason: FinishReason, index: int | None = None, error: tuple[str, str] | None = None
    ) -> list[StepOutput]:
        """The end of one answer, or of all that have none, for a reason outside any engine."""
        code, message = error or (None, None)
        gone = list(self.tokens) if index is None else [index]
        for each in gone:
            del self.tokens[each]
        return [
            StepOutput(
                request_id=self.command.request_id,
                index=each,
                finish_reason=reason,
                error_code=code,
                error_message=message,
            )
            for each in gone
        ]

    def _count(self) -> None:
        wanted = min(self.command.params.max_tokens or EXPECTED_TOKENS, EXPECTED_TOKENS)
        prompt = 0 if any(self.tokens.values()) else len(self.command.prompt_token_ids) - self.prefilled
        self.work = prompt + sum(wanted - len(told) for told in self.tokens.values())


class Parts(dict[str, Part]):
    """Those that run or wait, by the names that replicas know them by."""

    def __init__(self) -> None:
        super().__init__()
        self._of_request: dict[str, set[str]] = {}

    def put(self, part: Part) -> None:
        self[part.name] = part
        self._of_request.setdefault(part.command.request_id, set()).add(part.name)

    def drop(self, part: Part) -> None:
        del self[part.name]
        names = self._of_request[part.command.request_id]
        names.discard(part.name)
        if not names:
            del self._of_request[part.command.request_id]

    def of_request(self, request_id: str, index: int | None = None) -> list[Part]:
        """Its parts; of an answer that has not ended the one that has it."""
        parts = [self[name] for name in self._of_request.get(request_id, ())]
        return parts if index is None else [part for part in parts if index in part.tokens]

    def at(self, replica: str | None) -> list[Part]:
        return [part for part in self.values() if part.replica == replica]

    def work(self) -> dict[str, float]:
        """By replica."""
        found: dict[str, float] = {}
        for part in self.values():
            if part.replica is not None:
                found[part.replica] = found.get(part.replica, 0.0) + max(1, part.work)
        return found
