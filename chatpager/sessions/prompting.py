"""From stored messages to the ids that ask the model, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial, reduce
from typing import NamedTuple

import msgspec

from chatpager.engine.chat_template import ChatMessage, ChatTemplate, Prompt
from chatpager.engine.token_spelling import Spelled
from chatpager.engine.tokenizer import Tokenizer
from chatpager.engine.tool_calls import FunctionCall, Tool
from chatpager.errors import InvalidRequest
from chatpager.sessions.answers import call_id_of, calls_of
from chatpager.sessions.around import NOTHING, Around
from chatpager.sessions.oversize import check_bytes, check_tokens
from chatpager.sessions.receipt import common_prefix
from chatpager.store import Message, NewMessage, text_content, text_of

BEGINNINGS = ("a", "Z", "1", " b", "\n\nc", "\N{SNOWMAN}", "\N{CJK UNIFIED IDEOGRAPH-4F60}", "(")
"""Of what people say: whatever token the end of the instructions makes with one, it does not make with all."""

MANY = 512
"""Messages: some 5 ms of looking at them."""


class Question(NamedTuple):
    """The messages, with instructions where they stand, and what asks for the next one."""

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
        self,
        tenant: str,
        conversation: Sequence[Message | NewMessage],
        around: Around = NOTHING,
        *,
        asks: bool = True,
    ) -> Question:
        """What ``asks`` for an answer to this conversation, or else only what any question about it begins with.

        Rendering and tokenising a long conversation takes milliseconds that the event loop does not have.

        Raises:
            InputTooLong: it is far beyond ``limit``.
            InvalidRequest: the template refuses it, or the tools.
        """
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._thread)
        made = partial(self._messages, conversation, around)
        messages = await in_thread(made) if len(conversation) > MANY else made()
        prompt = await in_thread(self._prompt, tenant, messages, around.tools, asks)
        return Question(messages, prompt)

    async def settled(
        self,
        tenant: str,
        conversation: Sequence[Message | NewMessage],
        around: Around = NOTHING,
    ) -> Sequence[int]:
        """The beginning of what will ask for an answer to this conversation, whose last message is still being written:
        whatever is added to it leaves these ids as they are, but for a word that is not finished.

        Raises what ``question`` does.
        """
        *before, last = conversation
        longer = NewMessage(role=last.role, content=[*last.content, *text_content("x")])
        now = (await self.question(tenant, conversation, around)).prompt.token_ids
        then = (await self.question(tenant, [*before, longer], around)).prompt.token_ids
        return now[: common_prefix(now, then)]

    async def bare(self, tenant: str, prompt: str | Sequence[int]) -> Question:
        """A prompt that no template stands around. Raises InputTooLong, and InvalidRequest where it has no tokens."""
        ids = await self._encoded(tenant, prompt, Tokenizer.encode_prompt) if isinstance(prompt, str) else prompt
        if not ids:
            raise InvalidRequest("prompt: it has no tokens, so there is nothing to go on from", param="prompt")
        return Question([], Prompt(list(ids), "none"))

    async def text(self, tenant: str, text: str) -> Sequence[int]:
        """The ids of text that nothing stands around, as people write it. Raises InputTooLong."""
        return await self._encoded(tenant, text, Tokenizer.encode_plain)

    async def _encoded(self, tenant: str, text: str, how: Callable[[Tokenizer, str], Sequence[int]]) -> Sequence[int]:
        message = [ChatMessage("user", text)]
        check_bytes(message, self._tokenizer, self.limit)

        def encode() -> Sequence[int]:
            check_tokens(message, self._tokenizer, self.limit)
            return how(self._tokenizer.apart(tenant), text)

        return await asyncio.get_running_loop().run_in_executor(self._thread, encode)

    async def texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """What each of these stretches of ids says, special tokens included."""

        def decode() -> list[str]:
            return [self._tokenizer.decode(some, skip_special_tokens=False) for some in ids]

        return await asyncio.get_running_loop().run_in_executor(self._thread, decode)

    async def spelling(self) -> Callable[[int], Spelled]:
        """``Tokenizer.spell``, whose making takes as long as reading the vocabulary does."""

        def made() -> Callable[[int], Spelled]:
            return self._tokenizer.spell

        return await asyncio.get_running_loop().run_in_executor(self._thread, made)

    async def shared(self, instructions: str) -> Sequence[int]:
        """What asks for an answer with these instructions begins with this, whatever is said first.

        Raises what ``question`` does.
        """
        said = [NewMessage(role="user", content=text_content(text)) for text in BEGINNINGS]
        asked = [(await self.question("", [first], Around(instructions))).prompt.token_ids for first in said]
        return reduce(lambda common, ids: common[: common_prefix(common, ids)], asked)

    def close(self) -> None:
        self._thread.shutdown()

    def _messages(self, conversation: Sequence[Message | NewMessage], around: Around) -> list[ChatMessage]:
        """Raises InputTooLong."""
        messages = self._chat_messages(conversation)
        if around.head:
            messages.insert(0, ChatMessage("system", around.head))
        if around.tail:
            messages.append(ChatMessage("system", around.tail))
        check_bytes([*_tools_text(around.tools), *messages], self._tokenizer, self.limit)
        return messages

    def _chat_messages(self, conversation: Sequence[Message | NewMessage]) -> list[ChatMessage]:
        """A tool's result has the name of the tool that was called, which some templates insist on."""
        called: dict[str | None, str] = {}
        messages: list[ChatMessage] = []
        for message in conversation:
            called |= {call.id: call.name for call in calls_of(message.content)}
            call_id = call_id_of(message.content)
            messages.append(replace(self._chat_message(message), name=called.get(call_id), call_id=call_id))
        return messages

    def _chat_message(self, message: Message | NewMessage) -> ChatMessage:
        """Ids of another vocabulary mean nothing here, so such an answer is rendered from its text and calls."""
        text, calls = text_of(message.content), calls_of(message.content)
        shown = [FunctionCall(call.name, call.arguments, call.id) for call in calls]
        known = message.role == "assistant" and message.vocab == self._tokenizer.fingerprint
        if known and message.token_ids is not None:
            says_more = calls or self._tokenizer.thinks
            generated = partial(self._tokenizer.decode, message.token_ids) if says_more else None
            return ChatMessage(message.role, text, message.token_ids, shown, generated=generated)
        return ChatMessage(message.role, text, calls=shown)

    def _prompt(self, tenant: str, messages: Sequence[ChatMessage], tools: Sequence[Tool], asks: bool) -> Prompt:
        check_tokens([*_tools_text(tools), *messages], self._tokenizer, self.limit)
        return self._template.apart(tenant).prompt(messages, tools=tools, asks=asks)


def _tools_text(tools: Sequence[Tool]) -> list[ChatMessage]:
    """About what tools add to a prompt, as a message that is only measured."""
    return [ChatMessage("system", msgspec.json.encode([tool.shown() for tool in tools]).decode())] if tools else []
