"""The cache receipt: where a prompt's tokens came from, and why not more of them from the cache."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

MissReason = Literal[
    "cold", "diverged", "evicted", "lease_expired", "sub_block", "lost", "disabled", "fingerprint", "salt"
]


class KeyDomain(msgspec.Struct, frozen=True):
    """Among which blocks a turn's are found, in two short digests: ``model`` of all that makes keys and values what
    they are (weights, KV dtype and layout, block size, rotary and window configuration), ``salt`` of the tenant's."""

    model: str
    salt: str


class Eviction(msgspec.Struct, frozen=True):
    """How the first block that was missed had been lost: when, as what, and for which conversation of the same
    tenant; whether the conversation's own lease had expired before, or was revoked because a request needed memory."""

    seconds_ago: float
    eviction_class: str
    by: str | None
    lease_expired: bool
    lease_revoked: bool = False


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """Where a prompt left what the same tenant's turn ``response_id`` had asked, or been answered: the first token that
    differs, the message it stands in and that message's role here (instructions count as one; None: in none of them),
    and the text with which the earlier turn and this prompt go on. ``expected`` None: that turn is of another
    conversation, whose text is not to be kept here."""

    response_id: str
    token_index: int
    message_index: int | None
    role: str | None
    expected: str | None
    got: str


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens by source; device + host + disk + computed = prompt, of a turn whose prompt was computed to its end. Of
    one that ended before (cancelled, failed, interrupted) ``computed_tokens`` is what was computed until then, and the
    sum is less. ``draft_tokens`` of the device's had been computed while the turn was still being written.
    The first ``published_tokens`` of the prompt are the prefix that is ``published`` under this label.
    ``attainable_tokens`` is what the cache could have given had nothing been evicted; ``diverged_at`` the
    first token that differs from the conversation's last turn. Below the device only full blocks are kept: what a
    prompt that comes back from there lacks of the last one is ``sub_block``. ``domain`` None: of a version that did not
    say. ``broken`` is there where the request asked for it; None: the prompt goes on with all of the turn before."""

    prompt_tokens: int
    device_tokens: int
    host_tokens: int = 0
    disk_tokens: int = 0
    draft_tokens: int = 0
    published_tokens: int = 0
    published: str | None = None
    computed_tokens: int
    block_size: int
    attainable_tokens: int
    miss_reason: MissReason | None
    diverged_at: int | None = None
    evicted: Eviction | None = None
    template: str
    domain: KeyDomain | None = None
    broken: Break | UnsetType | None = msgspec.field(name="break", default=UNSET)

    @property
    def cached_tokens(self) -> int:
        """From any tier."""
        return self.device_tokens + self.host_tokens + self.disk_tokens


def receipt(
    prompt: Sequence[int],
    cached_tokens: int,
    committed_tokens: int,
    previous: Sequence[int] | None,
    *,
    block_size: int,
    caching: bool,
    template: str,
    lost: Eviction | None = None,
    host_tokens: int = 0,
    disk_tokens: int = 0,
    draft_tokens: int = 0,
    published_tokens: int = 0,
    published: str | None = None,
    computed_here: bool = True,
    domain: KeyDomain | None = None,
    earlier: KeyDomain | None = None,
) -> Receipt:
    """The account of one prompt, of which ``committed_tokens`` (and perhaps an answer's) were written, cached ones
    included; ``host_tokens`` and ``disk_tokens`` of the cached ones were not on the device. ``previous`` is the last
    turn of the conversation as far as its keys and values were computed; None when this server knows of none. Not
    ``computed_here``: an earlier server computed it, and what the disk did not keep of it is lost; or it was in the
    domain ``earlier``, of which nothing can be found in this ``domain``.
    ``lost``: the first block that was missed had been in the cache."""
    common = 0 if previous is None else common_prefix(prompt, previous)
    most = len(prompt) - 1
    attainable = max(cached_tokens, min(most, common))
    reason: MissReason | None = None
    if not caching:
        reason = "disabled"
    elif 0 < cached_tokens == most:
        pass  # nothing was missed, whatever the conversation's last turn was
    elif lost is not None:
        reason = "lease_expired" if lost.lease_expired else "evicted"
    elif cached_tokens < attainable // block_size * block_size:
        reason = "evicted" if computed_here else _elsewhere(domain, earlier) or "lost"
    elif previous is not None and common < min(len(previous), most):
        reason = "diverged"
    elif cached_tokens < attainable:
        reason = "sub_block"
    elif previous is None:
        reason = _elsewhere(domain, earlier) or "cold"
    return Receipt(
        prompt_tokens=len(prompt),
        device_tokens=cached_tokens - host_tokens - disk_tokens,
        host_tokens=host_tokens,
        disk_tokens=disk_tokens,
        draft_tokens=draft_tokens,
        published_tokens=published_tokens if caching else 0,
        published=published if caching else None,
        computed_tokens=min(committed_tokens, len(prompt)) - cached_tokens,
        block_size=block_size,
        attainable_tokens=attainable,
        miss_reason=reason,
        diverged_at=common if reason == "diverged" else None,
        evicted=lost if caching else None,
        template=template,
        domain=domain,
    )


def _elsewhere(domain: KeyDomain | None, earlier: KeyDomain | None) -> MissReason | None:
    """Why nothing that the last turn left can be found in this server's cache, if its blocks have other names here."""
    if domain is None or earlier is None or domain == earlier:
        return None
    return "fingerprint" if domain.model != earlier.model else "salt"


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common beginning, found by halves: comparing bytes costs next to nothing."""
    left, right = array("I", a), array("I", b)
    size = left.itemsize
    x, y = left.tobytes(), right.tobytes()
    same, most = 0, min(len(left), len(right))
    while same < most:
        middle = (same + most + 1) // 2
        if x[same * size : middle * size] == y[same * size : middle * size]:
            same = middle
        else:
            most = middle - 1
    return same
