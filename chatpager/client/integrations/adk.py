"""google-adk: agents whose instructions stand behind the conversation, and a model over the Responses WebSocket.

::

    app = App(name="story", root_agent=SequentialAgent(name="all", sub_agents=[writer, critic]),
              plugins=[SharedPrefixPlugin("You work on a story together.")])

with ``LlmAgent(model=ChatPagerLlm(model="chatpager/default"))``, or with ``LiteLlm(model="openai/default", ...)``.

ADK puts each agent's instruction and name at the head of its prompt, and tells it as a user's words what other agents
said. The first makes every prompt another one, the second keeps an answer's keys and values from being found. The
plugin tells it as the assistant's, in the order in which it was said. What another agent says is no longer marked as
such: where agents read what strangers write, that mark is a defence, and ``fenced=True`` keeps it, at the price of
computing other agents' answers once more.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.adk.agents.callback_context import CallbackContext
from google.adk.events.event import Event
from google.adk.models.llm_request import LlmRequest
from google.adk.plugins.base_plugin import BasePlugin
from google.genai import types

from chatpager.client.integrations.adk_llm import ChatPagerLlm, text_of
from chatpager.client.integrations.layout import Placed, Placement, place, woven

__all__ = ["ChatPagerLlm", "SharedPrefixPlugin"]
STATE = "chatpager:placed"
"""Where a session keeps the instructions that were placed in it, for each branch."""


class SharedPrefixPlugin(BasePlugin):
    """``head`` is the one system instruction of all agents; tools count too, so give all agents the same."""

    def __init__(self, head: str, *, placement: Placement = "append", fenced: bool = False) -> None:
        super().__init__(name="chatpager_shared_prefix")
        self._head, self._placement, self._fenced = head, placement, fenced

    async def before_model_callback(self, *, callback_context: CallbackContext, llm_request: LlmRequest) -> None:
        own = text_of(llm_request.config.system_instruction)
        events = _seen(callback_context)
        contents = [self._content(event, callback_context.agent_name) for event in events]
        placed = place(len(events), own, self._before(callback_context, events), self._placement)
        if self._placement == "append":
            self._remember(callback_context, events, placed)
        llm_request.config.system_instruction = self._head
        llm_request.contents = woven(contents, placed, _said)

    def _content(self, event: Event, agent: str) -> types.Content:
        content = event.content
        assert content is not None
        text = "".join(part.text or "" for part in content.parts or ())
        if self._fenced and event.author not in ("user", agent) and text:
            return _said(f"[{event.author}] said:\n<<<\n{text}\n>>>")
        return content

    def _before(self, context: CallbackContext, events: Sequence[Event]) -> list[Placed]:
        place_of = {event.id: count for count, event in enumerate(events, 1)}
        found = [Placed(place_of[id], text) for id, text in _kept(context) if id in place_of]
        return sorted(found, key=lambda one: one.after)

    def _remember(self, context: CallbackContext, events: Sequence[Event], placed: Sequence[Placed]) -> None:
        """A branch keeps its own: branches that run at once would write over each other's."""
        key = f"{STATE}:{context.branch or ''}"
        above, pairs = _kept(context, but=key), [[events[one.after - 1].id, one.text] for one in placed if one.after]
        context.state[key] = [pair for pair in pairs if pair not in above]


def _kept(context: CallbackContext, but: str | None = None) -> list[list[str]]:
    """The instructions that were placed in this branch and in those that it came from, each with the id of the event
    that it stands behind."""
    kept = context.state.to_dict()
    return [pair for key in kept if key != but and _is_above(key, context.branch) for pair in kept[key]]


def _is_above(key: str, branch: str | None) -> bool:
    """Whether what is kept under ``key`` is seen in ``branch``; nobody's branch sees all of them."""
    name, _, kept = key.rpartition(":")
    return name == STATE and (not branch or not kept or branch == kept or branch.startswith(kept + "."))


def _seen(context: CallbackContext) -> list[Event]:
    """What was said so far, as the agent's branch sees it."""
    return [
        event
        for event in context.session.events
        if event.content
        and event.content.parts
        and not event.partial
        and (not context.branch or not event.branch or f"{context.branch}.".startswith(f"{event.branch}."))
    ]


def _said(text: str) -> types.Content:
    return types.Content(role="user", parts=[types.Part(text=text)])
