"""Where an answer stands in its grammar, and the logits of the tokens that may come next.

The place is a function of the answer's tokens, which are read from the sequence when a token is to be drawn: a step
that is computed again and a sequence that was preempted find it as it was.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

import numpy as np
import torch

from chatpager.errors import GrammarFailed

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from chatpager.engine.sequence import Sequence


class Constraint:
    """``beginning``: a matcher that has read nothing, and is not changed. ``drawable`` [V], which may be wider than
    logits are: False of tokens that are never drawn."""

    def __init__(self, beginning: LLMatcher, drawable: np.ndarray) -> None:
        self._beginning = beginning
        self._matcher = beginning.deep_copy()
        self._drawable = drawable
        self._read = 0

    def again(self) -> Constraint:
        """The same for another answer, which has no token yet."""
        return Constraint(self._beginning, self._drawable)

    def has_beginning(self) -> bool:
        """Whether any token may come first. Raises GrammarFailed: finding that takes too much."""
        return bool(self._allowed().any())

    def allowed(self, token_ids: Seq[int], start: int) -> np.ndarray:
        """Which tokens may follow the answer ``token_ids[start:]``, of which those from before have not changed. [V],
        bool.

        Raises:
            GrammarFailed: it is no beginning of what the grammar allows, or finding what may follow takes too much.
        """
        assert start + self._read <= len(token_ids), "an answer has lost tokens"
        for token in token_ids[start + self._read :]:
            if not self._matcher.consume_token(token):
                raise GrammarFailed("the request's grammar could not be followed this far; make it smaller")
            self._read += 1
        return self._allowed()

    def _allowed(self) -> np.ndarray:
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise GrammarFailed(
                "finding what the request's grammar allows next takes more work than a step may have; make it smaller"
            )
        bits = np.unpackbits(mask, count=len(self._drawable), bitorder="little").view(bool)
        return bits & self._drawable


def constrain(logits: torch.Tensor, seqs: Seq[Sequence]) -> dict[int, GrammarFailed]:
    """Set what a grammar does not allow to minus infinity, in the rows [R, V] of sequences that have one. The rows that
    failed, and why: they are left as they are."""
    failed: dict[int, GrammarFailed] = {}
    for i, seq in enumerate(seqs):
        if seq.constraint is None:
            continue
        try:
            allowed = _may_be_drawn(seq, seq.constraint.allowed(seq.token_ids, seq.num_prompt_tokens))
        except GrammarFailed as error:
            failed[i] = error
            continue
        banned = torch.from_numpy(~allowed[: logits.shape[-1]])
        logits[i].masked_fill_(banned.to(logits.device), -torch.inf)
    return failed


def dead_ends(best: torch.Tensor, seqs: Seq[Sequence]) -> dict[int, GrammarFailed]:
    """The rows in which a grammar left nothing that the model could say, by each row's ``best`` [R] logit."""
    if all(seq.constraint is None for seq in seqs):
        return {}
    return {
        i: GrammarFailed("the request's grammar allows none of the model's tokens next")
        for i, (value, seq) in enumerate(zip(best.tolist(), seqs, strict=True))
        if value == -torch.inf and seq.constraint is not None
    }


def _may_be_drawn(seq: Sequence, allowed: np.ndarray) -> np.ndarray:
    """Without the tokens that would end the answer too early, unless nothing else may follow: a grammar that is
    complete outranks ``min_tokens`` and ``ignore_eos``."""
    p = seq.params
    early: list[int] = []
    if seq.num_output_tokens < p.min_tokens:
        early += [*p.stop_token_ids, *seq.eos_token_ids]
    elif p.ignore_eos:
        early += seq.eos_token_ids
    if not early:
        return allowed
    longer = allowed.copy()
    longer[[token for token in early if token < len(longer)]] = False
    return longer if longer.any() else allowed
