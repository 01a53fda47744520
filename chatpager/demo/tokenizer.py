"""The tokenizer of the built-in model: byte-level BPE, trained on generated conversations.

Before BPE, every Han character and every digit stands alone, so that a value is split in the same way wherever it
occurs and can be copied token by token. Every byte has a token of its own: any UTF-8 text can be encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from chatpager.demo.talk import Message

IM_START, IM_END, END_OF_TEXT, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>"
SPECIAL = (PAD, END_OF_TEXT, IM_START, IM_END)
PAD_ID, EOT_ID, START_ID, END_ID = range(4)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else -%}
{%- for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""
"""ChatML: a longer conversation's text begins with the text of its beginning, and a system message may come late."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """BPE over ``texts``. Deterministic: the same texts in the same order give the same file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Writes what ``transformers.AutoTokenizer`` reads: tokenizer.json, its config and the chat template."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=IM_END,
        additional_special_tokens=[END_OF_TEXT, IM_START],
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def render(messages: Sequence[Message]) -> str:
    """The chat template in plain Python, for training."""
    return "".join(f"{IM_START}{m['role']}\n{m['content']}{IM_END}\n" for m in messages)


class Encoder:
    """Conversations to token ids, with the positions where the assistant speaks."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.header: list[int] = tokenizer.encode("assistant\n").ids

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[tuple[list[int], list[bool]]]:
        """For each conversation its ids and, of equal length, whether the id is the assistant's own word or end."""
        rendered: Any = self.tokenizer.encode_batch([render(c) for c in conversations])
        return [(e.ids, self.spoken(e.ids)) for e in rendered]

    def spoken(self, ids: list[int]) -> list[bool]:
        mask, i, skip = [False] * len(ids), 0, len(self.header)
        while i < len(ids):
            if ids[i] == START_ID and ids[i + 1 : i + 1 + skip] == self.header:
                end = ids.index(END_ID, i)
                mask[i + 1 + skip : end + 1] = [True] * (end - i - skip)
                i = end
            i += 1
        return mask
