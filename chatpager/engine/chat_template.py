"""From a conversation to the prompt's token ids, so that each turn's prompt extends the one before.

An answer's ids are the ones that were generated, never its text tokenised again (a re-tokenised answer may split
differently, and the cache ends there). So the template renders a slot where such an answer stands, and the ids go into
the slot. What people wrote is tokenised as rendered, which gives the same ids every time.

Templates differ in what they allow. They are probed once: where one refuses a system message, or two messages of one
role in a row, the conversation is fitted to it; where one rewrites earlier answers (strips their reasoning, say), the
answers are kept as generated, which is the longest form that still extends, and ``Prompt.form`` says so. Where one asks
for an answer with other words than it then puts before it (opens the reasoning, say), the answer stands behind what
asked for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from chatpager.engine.control_tokens import SLOT_CLOSE, SLOT_OPEN
from chatpager.engine.model_folder import one_line
from chatpager.engine.tokenizer import Tokenizer
from chatpager.engine.tool_calls import FunctionCall, Tool, shown_id
from chatpager.errors import InvalidRequest, ModelLoadError

_SLOT = re.compile(f"{SLOT_OPEN}(\\d+){SLOT_CLOSE}")


@dataclass(frozen=True)
class ChatMessage:
    """``token_ids`` are an answer's own, without the token that ended it (the template writes that one); where they say
    more than ``text`` shows, ``generated`` tells all that they say. ``calls`` is what it called. ``name``,
    ``call_id``: of the tool whose result it is."""

    role: str
    text: str
    token_ids: Sequence[int] | None = None
    calls: Sequence[FunctionCall] = ()
    name: str | None = None
    call_id: str | None = None
    generated: Callable[[], str] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Prompt:
    """``form``: "exact", the template's own rendering; "kept", the template would have rewritten earlier answers and
    they were kept as generated; "rewritten", it left no place for one, so all was rendered from text; "none", no
    template stands around it. ``opens_thought``: it ends with what opens the model's thoughts."""

    token_ids: list[int]
    form: Literal["exact", "kept", "rewritten", "none"]
    opens_thought: bool = False


@dataclass(frozen=True)
class Traits:
    """What the template allows, found by trying."""

    system: bool = True
    late_system: bool = True
    same_role_twice: bool = True
    keeps_answers: bool = True
    tools: bool = False


PROBED_TOOL = Tool("probed_tool")
WITHOUT_TOOLS = "leave them out, or serve a model that calls tools, such as Qwen3"
PROBED_CALL = FunctionCall(PROBED_TOOL.name, "{}", "call_1")


class ChatTemplate:
    """The template of one model.

    Raises:
        ModelLoadError: the template cannot render even one message of a user.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._asks, self._put = "", re.compile("(?!)")
        """What asks for an answer, and what else the template puts before one."""
        self._arguments_as_text = False
        """It fails where a call's arguments are an object."""
        self.traits = self._probe() if tokenizer.has_template else Traits()

    def apart(self, tenant: str) -> Self:
        """The same for one tenant, see ``Tokenizer.apart``."""
        own = copy(self)
        own._tokenizer = self._tokenizer.apart(tenant)
        return own

    def prompt(self, messages: Sequence[ChatMessage], *, tools: Sequence[Tool] = (), asks: bool = True) -> Prompt:
        """The ids of the conversation, which begins with ``tools``, and of what ``asks`` for the next answer.

        Raises:
            InvalidRequest: the template refuses the messages even when fitted to it, or there is no template; or it
                has no place for tools, or asks for calls in a form that is not known here.
        """
        if tools:
            self._check_tools()
        fitted = _fit(messages, self.traits)
        text = self._with_slots(fitted, tools=tools, asks=asks)
        opens = asks and self._tokenizer.opens_thought(text)
        pieces = _SLOT.split(text)
        if [int(n) for n in pieces[1::2]] != [i for i, m in enumerate(fitted) if m.token_ids is not None]:
            text = self._render(fitted, slots=False, tools=tools, asks=asks)
            return Prompt(list(self._tokenizer.encode_rendered(text)), "rewritten", opens)
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            ids += (fitted[int(piece)].token_ids or ()) if i % 2 else self._tokenizer.encode_rendered(piece)
        exact = self.traits.keeps_answers or self._is_own_rendering(fitted, text, tools=tools, asks=asks)
        return Prompt(ids, "exact" if exact else "kept", opens)

    def _with_slots(self, messages: Sequence[ChatMessage], *, tools: Sequence[Tool] = (), asks: bool = True) -> str:
        """The conversation with slots for answers whose ids are known, each behind what asked for it."""
        text = self._render(messages, slots=True, tools=tools, asks=asks)
        if calls := self._tokenizer.rendered_calls:
            text = calls.sub(lambda found: found[1], text)
        return self._put.sub(lambda _: self._asks, text)

    def _check_tools(self) -> None:
        if not self.traits.tools:
            message = f"tools: the chat template of this model has no place for them; {WITHOUT_TOOLS}"
            raise InvalidRequest(message, param="tools")
        if not self._tokenizer.writes_calls:
            known = "Qwen's, Hermes', Llama's, Mistral's, DeepSeek's and GPT-OSS's are"
            message = f"tools: this model writes calls in a form that is not known here ({known}); {WITHOUT_TOOLS}"
            raise InvalidRequest(message, param="tools")

    def _is_own_rendering(
        self, messages: Sequence[ChatMessage], with_slots: str, *, tools: Sequence[Tool] = (), asks: bool = True
    ) -> bool:
        """Whether the answers, put in their slots, give what the template makes of them itself."""

        def said(found: re.Match[str]) -> str:
            message = messages[int(found[1])]
            text = message.text if message.generated is None else message.generated()
            return self._tokenizer.guard(text, answer=True)

        try:
            own = self._render(messages, slots=False, tools=tools, asks=asks)
        except InvalidRequest:
            return False
        return _SLOT.sub(said, with_slots) == own

    def _render(
        self, messages: Sequence[ChatMessage], *, slots: bool, tools: Sequence[Tool] = (), asks: bool = True
    ) -> str:
        results = [*(message.role == "tool" for message in messages[1:]), False]
        rendered = [
            self._slot(m, f"{SLOT_OPEN}{i}{SLOT_CLOSE}", results[i])
            if slots and m.token_ids is not None
            else self._written(m)
            for i, m in enumerate(messages)
        ]
        shown = [self._tokenizer.guard_all(tool.shown()) for tool in tools]
        return self._tokenizer.render(rendered, tools=shown, add_generation_prompt=asks)

    def _slot(self, message: ChatMessage, slot: str, results_follow: bool) -> dict[str, Any]:
        """An answer whose ids are known, as templates take it. Before results some want to see that it calls."""
        if not results_follow or not message.calls or self._tokenizer.rendered_calls is None:
            return {"role": message.role, "content": slot}
        first = message.calls[0]
        call = FunctionCall(self._tokenizer.guard(first.name), f'{{"{slot}": ""}}', first.id)
        return {"role": message.role, "content": "", "tool_calls": [call.shown(as_text=self._arguments_as_text)]}

    def _written(self, message: ChatMessage) -> dict[str, Any]:
        """A message as templates take it."""
        guarded = self._tokenizer.guard(message.text, answer=message.role == "assistant")
        shown = (call.shown(as_text=self._arguments_as_text) for call in message.calls)
        calls = [self._tokenizer.guard_all(call, answer=True) for call in shown]
        more: dict[str, Any] = {"tool_calls": calls} if calls else {}
        if message.name is not None:
            more["name"] = self._tokenizer.guard(message.name)
        if message.call_id is not None:
            more["tool_call_id"] = shown_id(message.call_id)
        return {"role": message.role, "content": guarded, **more}

    def _probe(self) -> Traits:
        user, system = ChatMessage("user", "a"), ChatMessage("system", "b")
        answer = ChatMessage("assistant", "<think>\nc\n</think>\n\n d ", [])
        try:
            self._render([user], slots=False)
        except InvalidRequest as error:
            raise ModelLoadError(self._tokenizer.path, one_line(error)) from error
        self._learn_what_asks(user, answer)

        def allows(*messages: ChatMessage) -> bool:
            try:
                text = self._render(messages, slots=False)
            except InvalidRequest:
                return False
            return all(m.text in text for m in messages if m is not answer)

        def shows_tools() -> bool:
            try:
                return PROBED_TOOL.name in self._render([user], slots=False, tools=[PROBED_TOOL])
            except InvalidRequest:
                return False

        def takes_calls(as_text: bool) -> bool:
            self._arguments_as_text = as_text
            called = ChatMessage("assistant", "", calls=[PROBED_CALL])
            return allows(user, called, ChatMessage("tool", "d", name=PROBED_TOOL.name, call_id=PROBED_CALL.id))

        def keeps(*messages: ChatMessage) -> bool:
            try:
                return self._is_own_rendering(messages, self._with_slots(messages))
            except InvalidRequest:
                return False

        self._arguments_as_text = takes_calls(as_text=True) and not takes_calls(as_text=False)
        return Traits(
            system=allows(system, user),
            late_system=allows(user, answer, system, user),
            same_role_twice=allows(user, user),
            keeps_answers=keeps(user, answer, user),
            tools=shows_tools(),
        )

    def _learn_what_asks(self, user: ChatMessage, answer: ChatMessage) -> None:
        """What the template puts before an answer may depend on whether it is the last message."""
        try:
            before = self._render([user], slots=False, asks=False)
            asking = self._render([user], slots=False)
            answered = [self._render([user, answer, *more], slots=True, asks=False) for more in ((user,), ())]
        except InvalidRequest:
            return
        slot = f"{SLOT_OPEN}1{SLOT_CLOSE}"
        if not asking.startswith(before) or not all(t.startswith(before) and slot in t for t in answered):
            return
        self._asks = asking[len(before) :]
        put = {text[len(before) : text.index(slot)] for text in answered} - {self._asks}
        longest_first = sorted(filter(None, put), key=len, reverse=True)
        if longest_first:
            self._put = re.compile(f"(?:{'|'.join(map(re.escape, longest_first))})(?={_SLOT.pattern})")


def _fit(messages: Sequence[ChatMessage], traits: Traits) -> list[ChatMessage]:
    """The conversation in a form the template takes: roles it refuses become the user's words, and neighbours of one
    role are joined where it wants them to alternate."""
    fitted: list[ChatMessage] = []
    for i, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        if role == "system" and not (traits.system if i == 0 else traits.late_system):
            role = "user"
        last = fitted[-1] if fitted else None
        if last and last.role == role == "user" and not traits.same_role_twice:
            fitted[-1] = ChatMessage(role, f"{last.text}\n\n{message.text}")
        else:
            fitted.append(replace(message, role=role))
    return fitted
