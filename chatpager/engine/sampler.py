"""From logits to tokens, all rows at once.

Every row's draw depends on its own logits, parameters, seed and position only, so a seed gives the same tokens in any
batch: the random number is a hash of (seed, position), and the token is found by inverting the row's distribution.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
import xxhash

from chatpager.engine.constraint import constrain, dead_ends
from chatpager.engine.messages import SampledLogprobs, TokenLogprob
from chatpager.engine.sequence import Sequence
from chatpager.engine.token_history import TokenHistory
from chatpager.errors import GrammarFailed


class Sampled(msgspec.Struct, frozen=True, gc=False):
    """``token_id`` None: the logits were not numbers, or else there is a ``failure``."""

    token_id: int | None
    logprobs: SampledLogprobs | None = None
    failure: GrammarFailed | None = None


@dataclass
class Drawn:
    """One token for each of ``seqs``, which a GPU may still be computing."""

    seqs: Seq[Sequence]
    tokens: torch.Tensor
    """[R] int64 on the model's device; -1: the logits were not numbers."""
    failed: dict[int, GrammarFailed]
    _host: torch.Tensor
    _logprobs: _Logprobs | None
    _ready: Any
    """A CUDA event behind all of it, or None."""

    def told(self) -> list[Sampled]:
        """What was drawn; waits for the device, and for nothing that was launched later."""
        if self._ready is not None:
            self._ready.synchronize()
        ids = self._host.tolist()
        logprobs = self._logprobs.told(self.seqs) if self._logprobs else {}
        return [
            Sampled(token, logprobs.get(i)) if token >= 0 and i not in self.failed
            else Sampled(None, failure=self.failed.get(i) if token >= 0 else None)
            for i, token in enumerate(ids)
        ]  # fmt: skip


def sample(logits: torch.Tensor, samples: Seq[tuple[int, Sequence]], lengths: Seq[int] | None = None) -> list[Sampled]:
    """Draw one token for each (row of ``logits`` [L, vocabulary], sequence)."""
    return draw(logits, samples, lengths).told() if samples else []


def draw(logits: torch.Tensor, samples: Seq[tuple[int, Sequence]], lengths: Seq[int] | None = None) -> Drawn:
    """The same without waiting for a GPU, but where a sequence has a grammar, which is followed on the host.
    ``lengths``: tokens of each sequence before the one that is drawn, if it does not have them all yet."""
    device = logits.device
    seqs, rows = [seq for _, seq in samples], [row for row, _ in samples]
    lengths = lengths or [len(seq) for seq in seqs]
    if rows != list(range(len(logits))):
        logits = logits.index_select(0, sent(rows, torch.int64, device))
    raw = logits.float()
    shaped = _shape(raw, seqs, lengths)
    failed = constrain(shaped, seqs)
    best, tokens = shaped.max(-1)
    is_sound = torch.isfinite(best if shaped is raw else raw.amax(-1))
    failed |= dead_ends(best, seqs)
    drawn = [i for i, seq in enumerate(seqs) if not seq.params.greedy and i not in failed]
    if drawn and device.type == "cpu":  # a GPU's kernels pass over what is not sound
        sound = is_sound.tolist()
        drawn = [i for i in drawn if sound[i]]
    if drawn:
        picked = sent(drawn, torch.int64, device)
        tokens[picked] = _draw(shaped[picked], [seqs[i] for i in drawn], [lengths[i] for i in drawn])
    tokens = tokens.masked_fill(~is_sound, -1)
    wanted = [i for i, seq in enumerate(seqs) if seq.params.logprobs is not None]
    logprobs = _logprobs(raw, tokens, seqs, wanted) if wanted else None
    return Drawn(seqs, tokens, failed, to_host(tokens), logprobs, launched(device))


def sent(values: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """``values`` on the device; from pinned memory, since anything else would wait for all that was launched."""
    is_gpu = device.type == "cuda"
    return torch.tensor(values, dtype=dtype, pin_memory=is_gpu).to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy; a GPU's is in pinned memory, and there once an event behind it has come."""
    return tensor.to("cpu", non_blocking=True, copy=True)


def launched(device: torch.device) -> Any:
    """An event behind all that was launched so far; None on a CPU, where all is computed."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    return (xxhash.xxh3_64_intdigest(struct.pack("<QQ", seed % 2**64, position)) >> 12) * 2.0**-52


# -- the rules that change a row's logits -----------------------------------------------------------------------------


def _shape(raw: torch.Tensor, seqs: list[Sequence], lengths: Seq[int]) -> torch.Tensor:
    """Penalties, bias and forbidden tokens, in vLLM's order; a copy is made only if a row needs one."""
    touched = [i for i, seq in enumerate(seqs) if has_rules(seq, lengths[i])]
    if not touched:
        return raw
    shaped = raw.clone()
    for i in touched:
        _apply_rules(shaped[i], seqs[i], lengths[i])
    return shaped


def has_rules(seq: Sequence, length: int) -> bool:
    """Whether something changes the logits of the token behind ``length`` others."""
    p = seq.params
    return p.penalised or bool(p.logit_bias) or seq.constraint is not None or _is_early(seq, length)


def _is_early(seq: Sequence, length: int) -> bool:
    return length - seq.num_prompt_tokens < seq.params.min_tokens


def _apply_rules(row: torch.Tensor, seq: Sequence, length: int) -> None:
    """Without waiting for a GPU, penalties apart."""
    p = seq.params
    if p.logit_bias:
        biased = {t: b for t, b in p.logit_bias.items() if t < row.numel()}
        row[sent(list(biased), torch.int64, row.device)] += sent(list(biased.values()), row.dtype, row.device)
    if _is_early(seq, length) and seq.constraint is None:  # whose grammar may have to end
        ends = [t for t in (*p.stop_token_ids, *seq.eos_token_ids) if t < row.numel()]
        row.index_fill_(0, sent(ends, torch.int64, row.device), -torch.inf)
    if p.penalised:
        _penalise(row, seq)


def _penalise(row: torch.Tensor, seq: Sequence) -> None:
    p = seq.params
    if seq.history is None:
        seq.history = TokenHistory(row.device)
    tokens = seq.history.of(seq.token_ids)
    if p.repetition_penalty != 1.0:
        values = row[tokens]  # a token that occurs twice is written twice, with the same value
        row[tokens] = torch.where(values > 0, values / p.repetition_penalty, values * p.repetition_penalty)
    if p.presence_penalty or p.frequency_penalty:
        answer = tokens[seq.num_prompt_tokens :]
        counts = torch.zeros(row.shape, dtype=torch.float64, device=row.device)
        counts.index_add_(0, answer, torch.ones_like(answer, dtype=torch.float64))
        row -= (p.presence_penalty * counts.sign() + p.frequency_penalty * counts).float()


# -- drawing ----------------------------------------------------------------------------------------------------------


def _draw(logits: torch.Tensor, seqs: list[Sequence], lengths: list[int] | None = None) -> torch.Tensor:
    """Temperature, min-p, top-k, top-p, then the token at the seed's place of the distribution. [R, V] -> [R]."""
    device, lengths = logits.device, lengths or [len(seq) for seq in seqs]
    if device.type == "cuda":
        return draw_on_device(logits, seqs, lengths)
    scaled = logits / _column([seq.params.temperature for seq in seqs], device)
    floors = _column([seq.params.min_p for seq in seqs], device)
    if any(seq.params.min_p > 0 for seq in seqs):
        likeliest = scaled.amax(-1, keepdim=True)
        scaled = scaled.masked_fill(scaled < likeliest + floors.log(), -torch.inf)
    cut = [i for i, seq in enumerate(seqs) if seq.params.is_cut]
    if cut:
        rows = torch.tensor(cut, device=device)
        scaled[rows] = _cut(scaled[rows], [seqs[i] for i in cut])
    numbers = [uniform(seq.seed, length) for seq, length in zip(seqs, lengths, strict=True)]
    places = torch.tensor(numbers, dtype=torch.float64, device=device)
    return _invert(scaled.softmax(-1), places)


def draw_on_device(logits: torch.Tensor, seqs: Seq[Sequence], lengths: Seq[int] | None = None) -> torch.Tensor:
    """The same by kernels that sort nothing: the random number to the last bit, the token but where two are apart by
    less than single precision tells."""
    from chatpager.kernels import cuda_sampling  # triton is there on Linux only, and slow to import

    floats, whole = draw_rules(seqs, lengths or [len(seq) for seq in seqs], logits.shape[-1])
    temperature, top_p, log_min_p = sent(floats, torch.float32, logits.device)
    seeds, positions, top_k = sent(whole, torch.int64, logits.device)
    return cuda_sampling.draw(
        logits, temperature=temperature, top_k=top_k.to(torch.int32), top_p=top_p, log_min_p=log_min_p, seeds=seeds,
        positions=positions, is_cut=any(seq.params.is_cut for seq in seqs),
    )  # fmt: skip


def draw_rules(seqs: Seq[Sequence], lengths: Seq[int], vocabulary: int) -> tuple[list[list[float]], list[list[int]]]:
    """Of each sequence temperature, top-p and the log of min-p, and as whole numbers seed, position and top-k. A greedy
    one, whose temperature is zero then, is not cut: its draw is not read, and looking for a cut would be most of it."""
    of = [seq.params for seq in seqs]
    log_min_p = [math.log(p.min_p) if p.min_p > 0 and not p.greedy else -math.inf for p in of]
    signed = [(seq.seed + 2**63) % 2**64 - 2**63 for seq in seqs]
    top_p, top_k = [1.0 if p.greedy else p.top_p for p in of], [0 if p.greedy else min(p.top_k, vocabulary) for p in of]
    temperature = [0.0 if p.greedy else p.temperature for p in of]
    return [temperature, top_p, log_min_p], [signed, list(lengths), top_k]


def _cut(scaled: torch.Tensor, seqs: list[Sequence]) -> torch.Tensor:
    """Keep the ``top_k`` likeliest, of them the fewest that reach ``top_p``; the rest gets no probability."""
    device, vocab = scaled.device, scaled.shape[-1]
    ordered, places = scaled.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(vocab, device=device)
    keep = _column([seq.params.top_k if seq.params.top_k > 0 else vocab for seq in seqs], device)
    ordered = ordered.masked_fill(ranks >= keep, -torch.inf)
    probs = ordered.softmax(-1)
    before = probs.cumsum(-1) - probs
    ordered = ordered.masked_fill(before >= _column([seq.params.top_p for seq in seqs], device), -torch.inf)
    return torch.empty_like(scaled).scatter_(-1, places, ordered)


def _invert(probs: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The first token at which the running sum of its row exceeds the row's place."""
    sums = probs.double().cumsum(-1)
    targets = places.unsqueeze(-1) * sums[:, -1:]
    found = torch.searchsorted(sums, targets, right=True).squeeze(-1)
    return found.clamp_(max=probs.shape[-1] - 1)


def _column(values: list[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(-1)


# -- reporting --------------------------------------------------------------------------------------------------------


@dataclass
class _Logprobs:
    """Of the rows ``wanted``, copied to the host: of the drawn token, and of the likeliest and which these are."""

    wanted: list[int]
    ids: torch.Tensor
    chosen: torch.Tensor
    values: torch.Tensor
    tokens: torch.Tensor

    def told(self, seqs: Seq[Sequence]) -> dict[int, SampledLogprobs]:
        found = {}
        rows = zip(
            self.wanted, *(part.tolist() for part in (self.ids, self.chosen, self.values, self.tokens)), strict=True
        )
        for i, token, chosen, values, tokens in rows:
            count = min(seqs[i].params.logprobs or 0, len(values))
            top = [TokenLogprob(t, v) for t, v in zip(tokens[:count], values[:count], strict=True)]
            found[i] = SampledLogprobs(TokenLogprob(token, chosen), top)
        return found


def _logprobs(raw: torch.Tensor, drawn: torch.Tensor, seqs: list[Sequence], wanted: list[int]) -> _Logprobs:
    rows = sent(wanted, torch.int64, raw.device)
    logs, ids = raw[rows].log_softmax(-1), drawn[rows]
    chosen = logs.gather(1, ids.clamp_min(0).unsqueeze(1)).squeeze(1)
    widest = min(max(seqs[i].params.logprobs or 0 for i in wanted), raw.shape[-1])
    values, tokens = logs.topk(widest, dim=-1)
    return _Logprobs(wanted, to_host(ids), to_host(chosen), to_host(values), to_host(tokens))
