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

import re

from google.adk.agents.callback_context import CallbackContext
from google.adk.models.llm_request import LlmRequest
from google.adk.plugins.base_plugin import BasePlugin
from google.genai import types

from chatpager.client.integrations.adk_llm import ChatPagerLlm, text_of
from chatpager.client.integrations.layout import Placement, lay_out

__all__ = ["ChatPagerLlm", "SharedPrefixPlugin"]
STATE = "chatpager:placed"
PREAMBLE = "For context:"
QUOTE = re.compile(
    r"\[[^\]\n]+\] said:\n<<<BEGIN_QUOTED_AGENT_CONTENT>>>\n(.*)\n<<<END_QUOTED_AGENT_CONTENT>>>", re.DOTALL
)
ELIDED = "<<<ELIDED_MARKER>>>"
"""How ADK 2.13 tells an agent what another one said: a part that begins with the preamble, then one that is the
quote."""


class SharedPrefixPlugin(BasePlugin):
    """``head`` is the one system instruction of all agents; tools count too, so give all agents the same."""

    def __init__(self, head: str, *, placement: Placement = "append", fenced: bool = False) -> None:
        super().__init__(name="chatpager_shared_prefix")
        self._head, self._placement, self._fenced = head, placement, fenced

    async def before_model_callback(self, *, callback_context: CallbackContext, llm_request: LlmRequest) -> None:
        contents = list(llm_request.contents)
        if not self._fenced:
            contents = [_unquoted(content) for content in contents]
        written = [_written(content) for content in contents]
        own, known = text_of(llm_request.config.system_instruction), _known(callback_context)
        llm_request.contents, new = lay_out(contents, written, own, known, self._placement, _said)
        llm_request.config.system_instruction = self._head
        if new:
            callback_context.state[_place_of(callback_context, callback_context.branch) + new.mark] = new.text


def _unquoted(content: types.Content) -> types.Content:
    """What ADK quotes of another agent's text, as that said it. Whatever else it is stays as it is, and so does a text
    that ADK had to change to quote it."""
    parts = [part.text or "" for part in content.parts or ()]
    quote = QUOTE.fullmatch(parts[1]) if len(parts) == 2 and parts[0].startswith(PREAMBLE) else None
    if content.role != "user" or quote is None or ELIDED in quote[1]:
        return content
    return types.Content(role="model", parts=[types.Part(text=quote[1])])


def _written(content: types.Content) -> str:
    """The same whoever looks at it: an agent has its own answer with more about it than others have."""
    parts = [part for part in content.parts or () if not part.thought]
    return repr((content.role, [(part.text, part.function_call, part.function_response) for part in parts]))


def _place_of(context: CallbackContext, branch: str | None) -> str:
    """Under which the session's state keeps instructions: an agent that is run as a tool gets its caller's state, but
    has a session of its own."""
    return f"{STATE}:{context.session.id}:{branch or ''}:"


def _known(context: CallbackContext) -> dict[str, str]:
    """Instructions by their marks, of this branch and of those that it came from."""
    found: dict[str, str] = {}
    names = (context.branch or "").split(".")
    kept = context.state.to_dict()
    for count in range(len(names) + 1):
        place = _place_of(context, ".".join(names[:count]))
        found |= {key.removeprefix(place): text for key, text in kept.items() if key.startswith(place) and text}
    return found


def _said(text: str) -> types.Content:
    return types.Content(role="user", parts=[types.Part(text=text)])
