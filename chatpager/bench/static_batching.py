"""The baseline of ``bench seeds``: one contiguous reservation of the maximum length a request, batches that stay.

It is transformers' own model of the same weights, its own ``generate``, its own contiguous cache (``static``) and
torch's own attention (``sdpa``). The given KV memory holds so many reservations of ``max_len`` tokens, and so many
requests make a batch: first come first served, padded on the left to the longest prompt. It decodes until its longest
answer is done, then the next batch begins. There is no prefix cache.

Kind to it: the cache that ``generate`` computes on is as long as the batch needs, not ``max_len``, so no time goes into
reading what is only reserved. Only slots of the requests in the batch count as reserved, not those that the last batch
leaves empty. Tokens of an answer that has ended count as held until the batch is over. It is told how long each answer
will be, so that no batch decodes longer than its longest answer. No time is counted for sending tokens to anybody.

Unkind to it: batches are not sorted by length, as an offline job could do. What is computed for an answer that has
ended is not counted as output, though it takes its time. ``generate`` is made to be general and does more in Python for
each step than a loop written for one model would; nothing is compiled. On a CPU our engine also exchanges the model's
linears and attention for faster ones, which is neither paging nor batching. Reserving less than ``max_len``, as a
server that knows its answers' lengths might, is not tried: the texts compare with a server that does not know them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from chatpager.bench.workload import Ask, Served, Stopwatch, Told
from chatpager.errors import ConfigError

PADDING = 0


def load(folder: Path, device: torch.device) -> Any:
    """The model in single precision."""
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
    return model.to(device).eval()


class StaticBatching:
    """``model``: what ``load`` gave. ``kv_tokens``: what the KV memory holds, in tokens.

    Raises:
        ConfigError: it does not hold one reservation.
    """

    def __init__(self, model: Any, *, max_len: int, kv_tokens: int) -> None:
        self.max_len, self.slots = max_len, kv_tokens // max_len
        if self.slots < 1:
            raise ConfigError("kv_tokens", f"must hold one reservation of {max_len}", value=kv_tokens)
        self.model = model

    def serve(self, asks: list[Ask], told: Told = lambda count: None) -> Served:
        """``asks`` in the order in which they arrive; the first arrives at the beginning."""
        served, watch = Served.nothing(len(asks)), Stopwatch()
        left = list(range(len(asks)))
        while left:
            came = [i for i in left if asks[i].after <= len(served.tokens[0])]
            batch = came[: self.slots]
            left = [i for i in left if i not in batch]
            self._decode(batch, left, asks, served, watch, told)
        for i, ask in enumerate(asks):
            served.arrived[i] = served.times[0][ask.after - 1] if ask.after else 0.0
        return served

    @torch.inference_mode()
    def _decode(
        self, batch: list[int], left: list[int], asks: list[Ask], served: Served, watch: Stopwatch, told: Told
    ) -> None:
        width = max(len(asks[i].prompt) for i in batch)
        ids = torch.full((len(batch), width), PADDING)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            prompt = asks[i].prompt
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1

        def step(input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            """After each token of the batch; never asks for an end."""
            newest = input_ids[:, -1].tolist()  # waits until a GPU has computed it
            now = watch()
            with watch.stopped():
                done = input_ids.shape[1] - width
                _record(batch, left, asks, served, newest, done, now, self.max_len)
                told(sum(asks[i].answer >= done for i in batch))
            return torch.zeros(len(batch), dtype=torch.bool, device=input_ids.device)

        told(sum(len(asks[i].prompt) for i in batch))
        most = max(asks[i].answer for i in batch)
        self.model.generate(
            ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=most,
            do_sample=False,
            # Of this batch's length: one that `generate` makes has the longest length that it was ever asked for, and
            # every step attends to all of it.
            past_key_values=transformers.StaticCache(
                config=self.model.config.get_text_config(decoder=True), max_cache_len=width + most
            ),
            disable_compile=True,
            pad_token_id=PADDING,
            eos_token_id=None,
            stopping_criteria=transformers.StoppingCriteriaList([step]),
        )


def _record(
    batch: list[int],
    left: list[int],
    asks: list[Ask],
    served: Served,
    newest: list[int],
    done: int,
    now: float,
    max_len: int,
) -> None:
    """``done`` tokens of each answer of the batch are there, the last of them ``newest``; its keys and values are not
    yet computed."""
    for i, token in zip(batch, newest, strict=True):
        if done <= asks[i].answer:
            served.tokens[i].append(token)
            served.times[i].append(now)
    served.sample(
        running=sum(done <= asks[i].answer for i in batch),
        waiting=sum(asks[i].after <= len(served.tokens[0]) for i in left),
        reserved=max_len * len(batch),
        held=sum(len(asks[i].prompt) + min(done, asks[i].answer) - 1 for i in batch),
    )
