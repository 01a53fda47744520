"""From stored messages to the ids that ask the model, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import NamedTuple

from chatpager.engine.chat_template import ChatMessage, ChatTemplate, Prompt
from chatpager.engine.tokenizer import Tokenizer
from chatpager.sessions.oversize import check_bytes, check_tokens
from chatpager.sessions.receipt import common_prefix
from chatpager.store import Message, NewMessage, text_content, text_of

BEGINNINGS = ("a", "Z", "1", " b", "\n\nc", "\N{SNOWMAN}", "\N{CJK UNIFIED IDEOGRAPH-4F60}", "(")
"""Of what people say: whatever token the end of the instructions makes with one, it does not make with all."""


class Question(NamedTuple):
    """The messages, instructions first, and what asks for the next one."""

    messages: Sequence[ChatMessage]
    prompt: Prompt


class Prompting:
    """``limit``, in tokens, is known once the model is there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.limit = 0
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chatpager-tokenizer")

    async def question(
        self, conversation: Sequence[Message | NewMessage], instructions: str | None, *, asks: bool = True
    ) -> Question:
        """What ``asks`` for an answer to this conversation, or else only what any question about it begins with.

        Rendering and tokenising a long conversation takes milliseconds that the event loop does not have.

        Raises:
            InputTooLong: it is far beyond ``limit``.
            InvalidRequest: the template refuses it.
        """
        messages = [self._chat_message(m) for m in conversation]
        if instructions:
            messages.insert(0, ChatMessage("system", instructions))
        check_bytes(messages, self._tokenizer, self.limit)
        prompt = await asyncio.get_running_loop().run_in_executor(self._thread, self._prompt, messages, asks)
        return Question(messages, prompt)

    async def settled(self, conversation: Sequence[Message | NewMessage], instructions: str | None) -> Sequence[int]:
        """The beginning of what will ask for an answer to this conversation, whose last message is still being written:
        whatever is added to it leaves these ids as they are, but for a word that is not finished.

        Raises what ``question`` does.
        """
        *before, last = conversation
        longer = NewMessage(role=last.role, content=text_content(text_of(last.content) + "x"))
        now = (await self.question(conversation, instructions)).prompt.token_ids
        then = (await self.question([*before, longer], instructions)).prompt.token_ids
        return now[: common_prefix(now, then)]

    async def shared(self, instructions: str) -> Sequence[int]:
        """What asks for an answer with these instructions begins with this, whatever is said first.

        Raises what ``question`` does.
        """
        said = [NewMessage(role="user", content=text_content(text)) for text in BEGINNINGS]
        asked = [(await self.question([first], instructions)).prompt.token_ids for first in said]
        return reduce(lambda common, ids: common[: common_prefix(common, ids)], asked)

    def close(self) -> None:
        self._thread.shutdown()

    def _chat_message(self, message: Message | NewMessage) -> ChatMessage:
        """Ids of another vocabulary mean nothing here, so such an answer is rendered from its text."""
        text = text_of(message.content)
        known = message.role == "assistant" and message.vocab == self._tokenizer.fingerprint
        return ChatMessage(message.role, text, message.token_ids if known else None)

    def _prompt(self, messages: Sequence[ChatMessage], asks: bool) -> Prompt:
        check_tokens(messages, self._tokenizer, self.limit)
        return self._template.prompt(messages, asks=asks)
