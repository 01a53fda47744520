"""What crosses the engine's seam: commands in, outputs out, plain structs that msgspec can carry between processes."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from chatpager.engine.heads import Strength
from chatpager.engine.sampling_params import SamplingParams


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class AddRequest(msgspec.Struct, frozen=True, kw_only=True, tag="add"):
    """Compute ``prompt_token_ids`` and continue them. ``salt`` separates cache domains (one a tenant);
    a lower ``priority`` is served earlier, as in vLLM."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    salt: bytes = b""
    priority: int = 0
    weight: int = 1
    """Of its domain's requests so many are begun in one round."""
    owner: str = ""
    """The session whose turn this is: its head moves to where the turn ends."""
    more_owners: list[str] = []
    """The same for the other samples of ``n``; none where this is shorter."""
    answered: list[int] = []
    """Tokens of the answer that another engine had given when it was lost: this one goes on behind them, and they count
    as its own. Only where ``n`` is 1."""


class CancelRequest(msgspec.Struct, frozen=True, tag="cancel"):
    """End the sample ``index`` of a request, or all of them. Legal in every state, and for what has ended or never
    was."""

    request_id: str
    index: int | None = None


class AttendRequest(msgspec.Struct, frozen=True, tag="attend"):
    """Whether anybody reads a request's answers: of the equally important, what nobody reads is preempted first."""

    request_id: str
    is_read: bool


class DraftRequest(msgspec.Struct, frozen=True, kw_only=True, tag="draft"):
    """``owner`` is writing a prompt that so far begins like this: compute it while there is nothing else to compute.
    Without tokens: it is writing none any more."""

    owner: str
    prompt_token_ids: list[int] = []
    salt: bytes = b""
    session: str = ""
    """The owner of the turn that it will be, if that is known."""


class LeaseRequest(msgspec.Struct, frozen=True, kw_only=True, tag="lease_request"):
    """Keep the first ``tokens`` of a session's conversation (None: all of it) for ``ttl`` seconds from now."""

    owner: str
    strength: Strength
    ttl: float
    tokens: int | None = None
    reason: str = ""
    """Shown with the lease."""
    replaces: bool = False
    """What was asked for before does not count any more; else neither its time nor its tokens are shortened."""


class ReleaseLease(msgspec.Struct, frozen=True, tag="release_lease"):
    owner: str


class ForkSession(msgspec.Struct, frozen=True, kw_only=True, tag="fork_session"):
    """Another session begins with the first ``tokens`` of this one (None: with all of it)."""

    owner: str
    new_owner: str
    tokens: int | None = None


class RewindSession(msgspec.Struct, frozen=True, kw_only=True, tag="rewind_session"):
    """This session has only its first ``tokens`` any more."""

    owner: str
    tokens: int


class CloseSession(msgspec.Struct, frozen=True, tag="close_session"):
    """Nobody will go on with this session: its blocks are nobody's."""

    owner: str


class CloseTenant(msgspec.Struct, frozen=True, tag="close_tenant"):
    """Nobody will go on with any session whose owner begins with this name."""

    tenant: str


class PublishPrefix(msgspec.Struct, frozen=True, kw_only=True, tag="publish_prefix"):
    """Prompts that begin with these tokens, a whole number of blocks, share the blocks of them, whosever they are."""

    label: str
    token_ids: list[int]


class WithdrawPrefix(msgspec.Struct, frozen=True, tag="withdraw_prefix"):
    """Prompts that come from now on share nothing of it with other tenants' any more. Unknown labels are left alone."""

    label: str


Command = (
    AddRequest
    | CancelRequest
    | AttendRequest
    | DraftRequest
    | LeaseRequest
    | ReleaseLease
    | ForkSession
    | RewindSession
    | CloseSession
    | CloseTenant
    | PublishPrefix
    | WithdrawPrefix
)


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """How the first block that a prompt did not find had been evicted: when, of which class, and for which session;
    ``lease_expired`` and ``lease_revoked`` say that its own session had a lease until shortly before."""

    seconds_ago: float
    eviction_class: str
    by: str
    lease_expired: bool
    lease_revoked: bool


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    token_id: int
    logprob: float


class SampledLogprobs(msgspec.Struct, frozen=True, gc=False):
    """Natural logarithms under the model's own distribution, before temperature and penalties (as OpenAI reports)."""

    chosen: TokenLogprob
    top: list[TokenLogprob]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the prompt's tokens came from; counted once, at the first admission. Of the cached ones ``host_tokens`` and
    ``disk_tokens`` were not on the device, ``draft_tokens`` were computed while somebody was still writing. The first
    ``published_tokens`` of the prompt are the prefix that is ``published`` under this label.
    cached + computed = prompt, once the prompt is computed; less while it is, or if the request ended meanwhile. One
    that was never ``admitted`` computed nothing. ``committed_tokens``, of prompt and answer, had their keys and values
    written or found in the cache; a preemption does not take them back."""

    admitted: bool
    prompt_tokens: int
    cached_tokens: int
    host_tokens: int = 0
    disk_tokens: int = 0
    draft_tokens: int = 0
    published_tokens: int = 0
    published: str | None = None
    committed_tokens: int
    output_tokens: int
    preemptions: int
    is_long: bool = False
    """It waited in the lane of those that have much to compute."""
    lost: Lost | None = None
    queue_seconds: float
    prefill_seconds: float

    @property
    def computed_tokens(self) -> int:
        return min(self.committed_tokens, self.prompt_tokens) - self.cached_tokens


class StepOutput(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """What one step brought to one sequence. ``index`` tells the samples of one request apart (n > 1)."""

    request_id: str
    index: int = 0
    token_ids: list[int] = []
    logprobs: list[SampledLogprobs] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    """So far: while the prompt is computed, with the first token, and when the sequence ends."""
    error_code: str | None = None
    error_message: str | None = None
    prefilled: tuple[int, int, int] | None = None
    """(computed or cached so far, of the prompt's tokens, of them cached) while the prompt is being computed."""
