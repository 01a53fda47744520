"""google-adk: agents whose instructions stand behind the conversation, and a model over the Responses WebSocket.

::

    app = App(name="story", root_agent=SequentialAgent(name="all", sub_agents=[writer, critic]),
              plugins=[SharedPrefixPlugin("You work on a story together.")])

with ``LlmAgent(model=ChatPagerLlm(model="chatpager/default"))``, or with ``LiteLlm(model="openai/default", ...)``.

ADK puts each agent's instruction and name at the head of its prompt, and tells it as a user's words, in quotes, what
other agents said. The first makes every prompt another one, the second keeps an answer's keys and values from being
found. The plugin puts the instruction last, and tells what another agent said as the assistant's words. Then it is no
longer marked as another's: where agents read what strangers write, that mark is a defence, and ``fenced=True`` keeps
it, at the price of computing other agents' answers once more. Everything else in a prompt stays as ADK has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.adk.agents.callback_context import CallbackContext
from google.adk.events.event import Event
from google.adk.models.llm_request import LlmRequest
from google.adk.plugins.base_plugin import BasePlugin
from google.genai import types

from chatpager.client.integrations.adk_llm import ChatPagerLlm, text_of
from chatpager.client.integrations.layout import Placement, lay_out

__all__ = ["ChatPagerLlm", "SharedPrefixPlugin"]
STATE = "chatpager:placed"
"""A session's state keeps each instruction under this, the branch that it was placed in, and its mark."""
QUOTE = "For context:"
"""What ADK quotes of another agent begins with this."""


class SharedPrefixPlugin(BasePlugin):
    """``head`` is the one system instruction of all agents; tools count too, so give all agents the same."""

    def __init__(self, head: str, *, placement: Placement = "append", fenced: bool = False) -> None:
        super().__init__(name="chatpager_shared_prefix")
        self._head, self._placement, self._fenced = head, placement, fenced

    async def before_model_callback(self, *, callback_context: CallbackContext, llm_request: LlmRequest) -> None:
        contents = list(llm_request.contents)
        if not self._fenced:
            contents = list(_unquoted(contents, callback_context.session.events, callback_context.agent_name))
        written = [_written(content) for content in contents]
        own, known = text_of(llm_request.config.system_instruction), _known(callback_context)
        llm_request.contents, new = lay_out(contents, written, own, known, self._placement, _said)
        llm_request.config.system_instruction = self._head
        if new:
            callback_context.state[f"{STATE}:{callback_context.branch or ''}:{new.mark}"] = new.text


def _unquoted(contents: Sequence[types.Content], events: Sequence[Event], agent: str) -> Iterator[types.Content]:
    """What ADK quotes of other agents' texts, as these said it; what cannot be recognised stays as it is."""
    said = [text for event in events if event.author not in ("user", agent) and (text := _text_alone(event))]
    for content in contents:
        quote = "".join(part.text or "" for part in content.parts or ())
        place = None
        if content.role == "user" and quote.startswith(QUOTE):
            place = next((i for i, text in enumerate(said) if text in quote), None)
        if place is None:
            yield content
        else:
            yield types.Content(role="model", parts=[types.Part(text=said[place])])
            del said[: place + 1]


def _written(content: types.Content) -> str:
    """The same whoever looks at it: an agent has its own answer with more about it than others have."""
    parts = [
        (part.text, part.function_call, part.function_response) for part in content.parts or () if not part.thought
    ]
    return repr((content.role, parts))


def _text_alone(event: Event) -> str | None:
    """None of what is more, or less, than text."""
    parts = (event.content and event.content.parts) or []
    texts = [part.text for part in parts if part.text and not part.thought]
    others = any(part.function_call or part.function_response or part.inline_data for part in parts)
    return "".join(texts) if texts and not others and not event.partial else None


def _known(context: CallbackContext) -> dict[str, list[str]]:
    """Instructions by their marks, of this branch and of those that it came from; nobody's branch knows all of them."""
    found: dict[str, list[str]] = {}
    for key, text in sorted(context.state.to_dict().items()):
        if key.startswith(f"{STATE}:"):
            branch, _, mark = key.removeprefix(f"{STATE}:").rpartition(":")
            if not context.branch or not branch or f"{context.branch}.".startswith(f"{branch}."):
                found.setdefault(mark, []).append(text)
    return found


def _said(text: str) -> types.Content:
    return types.Content(role="user", parts=[types.Part(text=text)])
