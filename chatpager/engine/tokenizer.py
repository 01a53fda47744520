"""The model's tokenizer and chat template: text to ids and messages to text.

The template runs in transformers' immutable Jinja sandbox; no code from the model folder runs. Text that users write
never becomes a control token: where it spells one, it is encoded as ordinary characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import transformers
import xxhash
from tokenizers import Tokenizer as Backend

from chatpager.engine.detokenizer import TextStream
from chatpager.engine.sampling_params import SamplingParams
from chatpager.errors import InvalidRequest, ModelLoadError

GUARD_OPEN, GUARD_CLOSE = "\ufdd0", "\ufdd1"
SLOT_OPEN, SLOT_CLOSE = "\ufdd2", "\ufdd3"
"""Noncharacters, which no text holds: around the number of a special token that a message spells out, and around the
number of a message whose ids are known (``chat_template``)."""
_MARKS = re.compile("[\ufdd0-\ufdd3]")
_GUARDED = re.compile(f"{GUARD_OPEN}(\\d+){GUARD_CLOSE}")
NO_FOLDER = "no such folder (a model is a folder with config.json, *.safetensors and a tokenizer)"
PIECES = 4096
"""Pieces of conversations whose ids are remembered: the next turn renders all of them again."""


class Tokenizer:
    """Raises ``ModelLoadError`` when the folder has no fast tokenizer."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ModelLoadError(path, NO_FOLDER)
        self.path = path
        try:
            self._hf = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(path, f"no usable tokenizer: {' '.join(str(error).split())[:200]}") from error
        if not getattr(self._hf, "is_fast", False):
            raise ModelLoadError(path, "its tokenizer has no tokenizer.json (a fast tokenizer is needed)")
        self.backend: Backend = self._hf.backend_tokenizer
        self._special = sorted({t for t in self._hf.all_special_tokens if t}, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, self._special))) if self._special else None
        self._encode_piece = lru_cache(PIECES)(self._encode_rendered)

    # -- ids and text -------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Ids of ``text`` in which special tokens count as such, as the template writes them."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_plain(self, text: str) -> list[int]:
        """Ids of ``text`` in which nothing is special, as a user writes it."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self.backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def text_stream(self, params: SamplingParams) -> TextStream:
        return TextStream(self.backend, params.stop, include_stop=params.include_stop_str_in_output)

    @cached_property
    def _plain(self) -> Backend:
        """A twin of the backend to which special tokens are ordinary text."""
        twin = Backend.from_str(self.backend.to_str())
        twin.encode_special_tokens = True
        return twin

    # -- the chat template --------------------------------------------------------------------------------------------

    @property
    def has_template(self) -> bool:
        return bool(self._hf.chat_template)

    @cached_property
    def fingerprint(self) -> str:
        """Of the vocabulary and the template: ids of one fingerprint mean nothing under another."""
        template = self._hf.chat_template
        return xxhash.xxh3_128_hexdigest(f"{self.backend.to_str()}\0{template!r}".encode())

    def render(self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        """The template's text for ``messages``; their texts should be guarded.

        Raises:
            InvalidRequest: the template refuses the messages (an order or a role it does not know), or there is none.
        """
        if not self.has_template:
            raise InvalidRequest("this model has no chat template; it can only complete prompts", param="messages")
        try:
            text: str = self._hf.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # a template is a program, and may fail in any way
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        return text

    def guard(self, text: str) -> str:
        """``text`` with every special token it spells out replaced by a mark, so that rendered text can tell them from
        the template's own; the characters that marks are made of are taken out of it first."""
        clean = _MARKS.sub("", text)
        if self._special_pattern is None:
            return clean
        return self._special_pattern.sub(lambda m: f"{GUARD_OPEN}{self._special.index(m[0])}{GUARD_CLOSE}", clean)

    def unguard(self, text: str) -> str:
        """Guarded text as its author wrote it."""
        return _GUARDED.sub(lambda m: self._special[int(m[1])], text)

    def encode_rendered(self, text: str) -> tuple[int, ...]:
        """Ids of a piece of rendered text; guarded special tokens come out as ordinary characters."""
        return self._encode_piece(text)

    def _encode_rendered(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for i, piece in enumerate(_GUARDED.split(text)):
            if i % 2:
                ids += self.encode_plain(self._special[int(piece)])
            elif piece:
                ids += self.encode(piece)
        return tuple(ids)
