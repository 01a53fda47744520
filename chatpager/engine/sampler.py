"""From logits to tokens, all rows at once.

Every row's draw depends on its own logits, parameters, seed and position only, so a seed gives the same tokens in any
batch: the random number is a hash of (seed, position), and the token is found by inverting the row's distribution.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence as Seq

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


def sample(logits: torch.Tensor, samples: Seq[tuple[int, Sequence]]) -> list[Sampled]:
    """Draw one token for each (row of ``logits`` [L, vocabulary], sequence)."""
    if not samples:
        return []
    rows = torch.tensor([row for row, _ in samples], device=logits.device)
    seqs = [seq for _, seq in samples]
    raw = logits.index_select(0, rows).float()
    sound = torch.isfinite(raw.amax(-1)).tolist()
    shaped = _shape(raw, seqs)
    failed = constrain(shaped, seqs)
    best, tokens = shaped.max(-1)
    failed |= dead_ends(best, seqs)
    good = [ok and i not in failed for i, ok in enumerate(sound)]
    drawn = [i for i, seq in enumerate(seqs) if not seq.params.greedy and good[i]]
    if drawn:
        picked = torch.tensor(drawn, device=logits.device)
        tokens[picked] = _draw(shaped[picked], [seqs[i] for i in drawn])
    ids = tokens.tolist()
    wanted = [i for i, seq in enumerate(seqs) if seq.params.logprobs is not None and good[i]]
    logprobs = _logprobs(raw, ids, seqs, wanted)
    return [
        Sampled(ids[i], logprobs.get(i)) if good[i] else Sampled(None, failure=failed.get(i) if ok else None)
        for i, ok in enumerate(sound)
    ]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    return (xxhash.xxh3_64_intdigest(struct.pack("<QQ", seed % 2**64, position)) >> 12) * 2.0**-52


# -- the rules that change a row's logits -----------------------------------------------------------------------------


def _shape(raw: torch.Tensor, seqs: list[Sequence]) -> torch.Tensor:
    """Penalties, bias and forbidden tokens, in vLLM's order; a copy is made only if a row needs one."""
    touched = [i for i, seq in enumerate(seqs) if _has_rules(seq)]
    if not touched:
        return raw
    shaped = raw.clone()
    for i in touched:
        _apply_rules(shaped[i], seqs[i])
    return shaped


def _has_rules(seq: Sequence) -> bool:
    p = seq.params
    return p.penalised or bool(p.logit_bias) or seq.constraint is not None or seq.num_output_tokens < p.min_tokens


def _apply_rules(row: torch.Tensor, seq: Sequence) -> None:
    p = seq.params
    if p.logit_bias:
        biased = [(t, b) for t, b in p.logit_bias.items() if t < row.numel()]
        row[[t for t, _ in biased]] += torch.tensor([b for _, b in biased], device=row.device)
    if seq.num_output_tokens < p.min_tokens and seq.constraint is None:  # whose grammar may have to end
        ends = [*p.stop_token_ids, *seq.eos_token_ids]
        row[[t for t in ends if t < row.numel()]] = -torch.inf
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


def _draw(logits: torch.Tensor, seqs: list[Sequence]) -> torch.Tensor:
    """Temperature, min-p, top-k, top-p, then the token at the seed's place of the distribution. [R, V] -> [R]."""
    device = logits.device
    if device.type == "cuda":
        return draw_on_device(logits, seqs)
    scaled = logits / _column([seq.params.temperature for seq in seqs], device)
    floors = _column([seq.params.min_p for seq in seqs], device)
    if any(seq.params.min_p > 0 for seq in seqs):
        likeliest = scaled.amax(-1, keepdim=True)
        scaled = scaled.masked_fill(scaled < likeliest + floors.log(), -torch.inf)
    cut = [i for i, seq in enumerate(seqs) if seq.params.top_k > 0 or seq.params.top_p < 1.0]
    if cut:
        rows = torch.tensor(cut, device=device)
        scaled[rows] = _cut(scaled[rows], [seqs[i] for i in cut])
    places = torch.tensor([uniform(seq.seed, len(seq)) for seq in seqs], dtype=torch.float64, device=device)
    return _invert(scaled.softmax(-1), places)


def draw_on_device(logits: torch.Tensor, seqs: list[Sequence]) -> torch.Tensor:
    """The same by kernels that sort nothing: the random number to the last bit, the token but where two are apart by
    less than single precision tells."""
    from chatpager.kernels import cuda_sampling  # triton is there on Linux only, and slow to import

    device, of = logits.device, [seq.params for seq in seqs]
    floats = torch.tensor([[p.temperature for p in of], [p.top_p for p in of], [p.min_p for p in of]])
    floats[2].log_()
    temperature, top_p, log_min_p = floats.to(device)
    signed = [(seq.seed + 2**63) % 2**64 - 2**63 for seq in seqs]
    seeds, positions = torch.tensor([signed, [len(seq) for seq in seqs]], dtype=torch.int64).to(device)
    top_k = torch.tensor([min(p.top_k, logits.shape[-1]) for p in of], dtype=torch.int32, device=device)
    return cuda_sampling.draw(
        logits, temperature=temperature, top_k=top_k, top_p=top_p, log_min_p=log_min_p, seeds=seeds, positions=positions
    )


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


def _logprobs(raw: torch.Tensor, ids: list[int], seqs: list[Sequence], wanted: list[int]) -> dict[int, SampledLogprobs]:
    if not wanted:
        return {}
    logs = raw[wanted].log_softmax(-1)
    widest = min(max(seqs[i].params.logprobs or 0 for i in wanted), raw.shape[-1])
    values, tokens = logs.topk(widest, dim=-1)
    found = {}
    for place, i in enumerate(wanted):
        chosen = TokenLogprob(ids[i], float(logs[place, ids[i]]))
        count = min(seqs[i].params.logprobs or 0, widest)
        top = zip(tokens[place, :count].tolist(), values[place, :count].tolist(), strict=True)
        found[i] = SampledLogprobs(chosen, [TokenLogprob(t, v) for t, v in top])
    return found
