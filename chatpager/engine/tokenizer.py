"""The model's tokenizer and chat template: text to ids and messages to text.

The template runs in a sandbox (``template_sandbox``); no code from the model folder runs. Text that people write
never becomes a control token (``control_tokens.steering`` says which ones are): where it spells one, or would become
one, it is encoded as ordinary characters. An answer rendered from its text may hold the marks that its text shows
(``<think>``), for the model wrote them; only special tokens, which no answer's text shows, are ordinary there. Text
that spells none gets the ids that the backend gives it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import transformers
import xxhash
from tokenizers import Tokenizer as Backend

from chatpager.engine import control_tokens
from chatpager.engine.answer_forms import AnswerForm, answer_form
from chatpager.engine.answer_marks import marks_of
from chatpager.engine.call_parser import AnswerParser
from chatpager.engine.call_writing import CallWriting, call_writing
from chatpager.engine.control_tokens import ControlTokens
from chatpager.engine.detokenizer import PlainPieces, TextStream, plain_pieces
from chatpager.engine.model_folder import one_line, read_json, require_folder
from chatpager.engine.remembered_pieces import RememberedPieces
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.template_budget import TooMuch
from chatpager.engine.template_sandbox import ChatSandbox
from chatpager.engine.token_spelling import Spelled, TokenSpelling
from chatpager.errors import InvalidRequest, ModelLoadError

PIECES_BYTES = 64 << 20
"""Memory for the texts and ids of pieces of conversations: some eight million tokens."""
PIECE_BYTES, LEAST_PIECES_BYTES = 1 << 10, 4 << 20
"""The same for each of few conversations, and for all of them: one may be long."""


def pieces_bytes(conversations: int) -> int:
    """Memory for the pieces of so many."""
    return min(max(PIECE_BYTES * conversations, LEAST_PIECES_BYTES), PIECES_BYTES)


class Tokenizer:
    """``pieces_bytes``: memory for pieces of conversations, whose ids are not looked for again. Raises
    ``ModelLoadError`` when the folder has no fast tokenizer, or one that is broken."""

    def __init__(self, path: Path, *, pieces_bytes: int = PIECES_BYTES) -> None:
        require_folder(path)
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            read_json(path / name, required=False)
        self.path = path
        try:
            self._hf = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # a folder may be broken in any way; tokenizers raises Exception itself
            raise _unusable(path, error) from error
        if not getattr(self._hf, "is_fast", False):
            raise ModelLoadError(path, "its tokenizer has no tokenizer.json (a fast tokenizer is needed)")
        self.backend: Backend = self._hf.backend_tokenizer
        self._special = control_tokens.special(self.backend)
        self._steering = control_tokens.steering(self.backend, str(self._hf.chat_template or ""))
        try:
            self._plain = self._twin()
        except Exception as error:  # the vocabulary may be read once and not again: two tokens of one id
            raise ModelLoadError(path / "tokenizer.json", f"no usable tokenizer: {one_line(error)}") from error
        self._pieces = RememberedPieces(pieces_bytes)
        self._whose = ""
        self._templates: dict[bool, ChatSandbox] = {}

    @property
    def special_ids(self) -> frozenset[int]:
        """Of the tokens that have no text."""
        return self._special.ids

    # -- ids and text -------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Ids of ``text`` in which special tokens count as such, as the template writes them."""
        return _ids(self.backend, text, add_special_tokens=add_special_tokens)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of ``text`` in which nothing steers the model, as a user writes it.

        Where the vocabulary itself has a control token for a stretch of text, the stretch is encoded in halves; a
        single character that is a control token has no other ids and is left out.
        """
        ids = _ids(self._plain, text)
        if self._steering.ids.isdisjoint(ids):
            return ids
        if len(text) == 1:
            return [i for i in ids if i not in self._steering.ids]
        half = len(text) // 2
        return self.encode_plain(text[:half]) + self.encode_plain(text[half:])

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a bare prompt: what the tokenizer begins every text with (a BOS token, say), and ``text`` as plain."""
        return [*self._beginning, *self.encode_plain(text)]

    @cached_property
    def _beginning(self) -> list[int]:
        plain, whole = self.encode("a"), self.encode("a", add_special_tokens=True)
        return whole[: next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return self.backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    @cached_property
    def spell(self) -> Callable[[int], Spelled]:
        """What a token stands for by itself."""
        return TokenSpelling(self.backend).spell

    def text_stream(self, params: SamplingParams, *, marked: bool = False) -> TextStream:
        """``marked``: for ``answer_parser``, which sees the tokens that give an answer its parts."""
        include, least = params.include_stop_str_in_output, params.min_tokens
        marks = self._marks if marked else None
        stops, plain = params.stop, self._plain_pieces
        return TextStream(self.backend, stops, include_stop=include, min_tokens=least, marks=marks, plain=plain)

    @cached_property
    def _plain_pieces(self) -> PlainPieces | None:
        return plain_pieces(self.backend)

    @cached_property
    def _marks(self) -> Mapping[int, str]:
        return marks_of(self.backend, self._form.tokens)

    @property
    def structure_ids(self) -> frozenset[int]:
        """Of the tokens that give an answer its parts: whether they are special or not, nothing that is told has
        them."""
        return frozenset(self._marks)

    @cached_property
    def longest_token_bytes(self) -> int | None:
        """No token stands for more bytes of text. None where there is no such bound: an unknown token may stand for
        any stretch, and a normalizer may shorten text (other than Unicode's NFC, to a third at most)."""
        whole = json.loads(self.backend.to_str())
        model, normalizer = whole["model"], whole["normalizer"]
        if (model.get("unk_token") and not model.get("byte_fallback")) or normalizer not in (None, {"type": "NFC"}):
            return None
        if any(token["lstrip"] or token["rstrip"] for token in whole["added_tokens"]):
            return None
        longest = max(len(token.encode()) for token in self.backend.get_vocab())
        return longest * 3 if normalizer else longest

    def _twin(self) -> Backend:
        """A twin of the backend to which control tokens are ordinary text."""
        whole = json.loads(self.backend.to_str())
        for token in whole["added_tokens"]:
            token["special"] = token["id"] in self._steering.ids
        twin = Backend.from_str(json.dumps(whole))
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

    def answer_parser(self, names: Container[str] | None, *, opened: bool = False) -> AnswerParser | None:
        """What reads an answer of the model, see ``AnswerForm.parser``."""
        return self._form.parser(names, opened=opened)

    @cached_property
    def _form(self) -> AnswerForm:
        return answer_form(str(self._hf.chat_template or ""))

    @property
    def thinks(self) -> bool:
        """Whether what the model generates says more than its answers show."""
        return self._form.thinks

    def opens_thought(self, prompt: str) -> bool:
        """Whether a rendered prompt ends with what opens the model's thoughts."""
        return self._form.tags is not None and prompt.rstrip().endswith(self._form.tags.opens)

    @property
    def closes_thoughts_unseen(self) -> bool:
        """Whether a special token does: under a grammar none is drawn, and thoughts would not end."""
        tags = self._form.tags
        return tags is not None and self.backend.token_to_id(tags.closes) in self._special.ids

    @property
    def writes_calls(self) -> bool:
        """Whether the template asks for calls in a form that is known here."""
        return self._form.reads_calls and (self.rendered_calls is None or bool(self._marks))

    @property
    def rendered_calls(self) -> re.Pattern[str] | None:
        """How the template writes an answer's calls, in whose arguments a slot stands; None: their place is that of the
        answer's text."""
        return self._form.rendered_calls

    @property
    def call_writing(self) -> CallWriting | None:
        """How a grammar has the model write calls; None where its form cannot be forced."""
        return call_writing(str(self._hf.chat_template or ""), {mark: i for i, mark in self._marks.items()})

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> str:
        """The template's text for ``messages`` and ``tools``; their texts should be guarded.

        Raises:
            InvalidRequest: the template refuses the messages (an order or a role it does not know), or there is none.
        """
        if not self.has_template:
            raise InvalidRequest("this model has no chat template; it can only complete prompts", param="messages")
        try:
            return self._template(bool(tools)).render(
                [{name: value for name, value in message.items() if value is not None} for message in messages],
                tools=list(tools) if tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._hf.special_tokens_map,
            )
        except TooMuch as error:
            problem = f"the model's chat template takes too much for these messages: {error}; send fewer of them"
        except Exception as error:  # a template is a program, and may fail in any way
            problem = f"the model's chat template refuses these messages: {one_line(error)}"
        raise InvalidRequest(problem, param="messages")

    def _template(self, with_tools: bool) -> ChatSandbox:
        """A model may have one of its own for tools. Compiled once."""
        found = self._templates.get(with_tools)
        if found is None:
            text = self._hf.get_chat_template(None, [{}] if with_tools else None)
            found = self._templates[with_tools] = ChatSandbox(text)
        return found

    def guard(self, text: str, *, answer: bool = False) -> str:
        """``text`` with every control token it spells replaced by a mark, so that rendered text can tell them from the
        template's own; the noncharacters that marks are made of are taken out of it first. Of an ``answer``, only
        special tokens are."""
        tokens = self._special if answer else self._steering
        pieces = tokens.split(control_tokens.without_noncharacters(text))
        return "".join(
            control_tokens.mark(piece) if i % 2 else self._guard_lookalikes(piece, tokens)
            for i, piece in enumerate(pieces)
        )

    def guard_all(self, value: Any, *, answer: bool = False) -> Any:
        """``value`` with every text in it guarded."""
        match value:
            case str():
                return self.guard(value, answer=answer)
            case dict():
                return {self.guard(k, answer=answer): self.guard_all(v, answer=answer) for k, v in value.items()}
            case list():
                return [self.guard_all(item, answer=answer) for item in value]
            case _:
                return value

    def _guard_lookalikes(self, text: str, tokens: ControlTokens) -> str:
        """``text`` with what becomes a control token without spelling it replaced by marks."""
        if not tokens.lookalikes or not self._gives(text, tokens):
            return text
        (encoding,) = self.backend.encode_batch([text], add_special_tokens=False)
        pieces, done = [], 0
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id in tokens.ids:
                pieces += [text[done:start], text[start:end]]
                done = end
        pieces.append(text[done:])
        # What is left may read otherwise on its own: then all of it is marked.
        return "".join(
            control_tokens.mark(piece) if i % 2 or self._gives(piece, tokens) else piece
            for i, piece in enumerate(pieces)
        )

    def _gives(self, text: str, tokens: ControlTokens) -> bool:
        return not tokens.ids.isdisjoint(self.encode_rendered(text))

    def encode_rendered(self, text: str) -> Sequence[int]:
        """Ids of a piece of rendered text; guarded tokens come out as ordinary characters. Not to be changed: they are
        remembered for the next turn."""
        known = self._pieces.get(text, self._whose)
        if known is not None:
            return known
        ids: list[int] = []
        for i, piece in enumerate(control_tokens.split_marks(text)):
            if piece:
                ids += self.encode_plain(piece) if i % 2 else self.encode(piece)
        return self._pieces.put(text, ids, self._whose)

    def apart(self, tenant: str) -> Self:
        """The same for one tenant: what others wrote is not remembered for it."""
        own = copy(self)
        own._whose = tenant
        return own


def _ids(backend: Backend, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """As a batch of one: ``encode`` keeps the interpreter from every other thread for as long as it takes, which of a
    long conversation are a hundred milliseconds, and looks for places that nobody asked for."""
    (encoding,) = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    return encoding.ids


def _unusable(path: Path, error: Exception) -> ModelLoadError:
    """Of tokenizer.json where that is broken by itself, or else of the folder."""
    file = path / "tokenizer.json"
    if file.is_file():
        try:
            Backend.from_file(str(file))
        except Exception as own:  # as above
            path, error = file, own
    return ModelLoadError(path, f"no usable tokenizer: {one_line(error)}")
