"""Requests that have not ended: what their readers are told as they go on, and how they end."""

from __future__ import annotations

from chatpager.engine.histogram import Histogram
from chatpager.engine.known_sessions import KnownSessions
from chatpager.engine.leases import LeaseBook
from chatpager.engine.messages import FinishReason, SampledLogprobs, StepOutput, Usage
from chatpager.engine.request import Request
from chatpager.engine.scheduler import Scheduler
from chatpager.engine.sequence import Sequence, SequenceStatus
from chatpager.errors import EngineError

TOKEN_SECONDS = -10, 6
"""A millisecond to a minute, as powers of two."""


class OpenRequests(dict[str, Request]):
    """By id. A request is open until the last of its sequences has ended; what it is told goes into ``outputs``."""

    def __init__(self, scheduler: Scheduler, sessions: KnownSessions, leases: LeaseBook) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._sessions = sessions
        self._leases = leases
        self.outputs: list[StepOutput] = []
        """Since they were taken last: also what a cancel made between two steps, or a step that was interrupted."""
        self.between_tokens = Histogram(*TOKEN_SECONDS)

    def take_outputs(self) -> list[StepOutput]:
        outputs, self.outputs = self.outputs, []
        return outputs

    def usage(self, seq: Sequence, now: float | None = None) -> Usage:
        return self[seq.request_id].usage(seq, self._leases.heads.get(seq.owner), now)

    def tell_progress(self, seq: Sequence, now: float) -> None:
        """More of its prompt is computed."""
        if seq.num_output_tokens == 0:
            done = seq.committed, seq.num_prompt_tokens, seq.cached_tokens
            self.outputs.append(StepOutput(request_id=seq.request_id, prefilled=done, usage=self.usage(seq, now)))

    def tell_token(self, seq: Sequence, token_id: int, logprobs: SampledLogprobs | None, now: float) -> None:
        """The sequence has one token more, and ends where that is its last."""
        seq.token_ids.append(token_id)
        is_first = seq.sampled_at is None
        if seq.sampled_at is not None:
            self.between_tokens.add(now - seq.sampled_at)
        seq.sampled_at = now
        reason = seq.finish_reason()
        usage = self.usage(seq, now) if reason or is_first else None
        if reason:
            self.end_turn(seq)
            self.forget(seq.request_id, seq.index)
        told = [logprobs] if logprobs else None
        output = StepOutput(
            request_id=seq.request_id, index=seq.index, token_ids=[token_id], logprobs=told, finish_reason=reason,
            usage=usage,
        )  # fmt: skip
        self.outputs.append(output)

    def end_turn(self, seq: Sequence) -> None:
        """Take a sequence out whose turn ended as it should, or was ended: the session's head moves with it."""
        if seq.status is SequenceStatus.RUNNING:
            self._sessions.keep(seq)
        self._finish(seq)

    def _finish(self, seq: Sequence) -> None:
        self._scheduler.finish(seq)
        self._sessions.end(seq)

    def end_request(self, request_id: str, reason: FinishReason, error: EngineError | None = None) -> None:
        request = self[request_id]
        for seq in request.seqs:
            if seq.index in request.unfinished:
                self.end_sequence(seq, reason, error)
        del self[request_id]

    def end_sequence(self, seq: Sequence, reason: FinishReason, error: EngineError | None = None) -> None:
        usage = self.usage(seq)
        if error:
            self._finish(seq)
        else:
            self.end_turn(seq)
        code, message = (error.code, str(error)) if error else (None, None)
        output = StepOutput(
            request_id=seq.request_id, index=seq.index, finish_reason=reason, usage=usage, error_code=code,
            error_message=message,
        )  # fmt: skip
        self.outputs.append(output)

    def forget(self, request_id: str, index: int) -> None:
        """One of its sequences has ended; with the last the request has."""
        request = self[request_id]
        request.unfinished.discard(index)
        if not request.unfinished:
            del self[request_id]
