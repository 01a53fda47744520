"""The OpenAI Agents SDK: agents whose instructions stand behind the conversation.

::

    provider = OpenAIProvider(openai_client=AsyncOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="-"),
                              use_responses_websocket=True)
    shared = run_config("You work on a story together.", model_provider=provider, model="default")
    for agent in (writer, critic):
        await Runner.run(agent, "Go on.", session=session, run_config=shared)

It needs to see the whole conversation, so it is for runs with a ``session``, or with all items as input. Runs with
``conversation_id`` or ``previous_response_id`` send only what is new: there let the server place the instructions, with
``ModelSettings(extra_body={"chatpager": {"instructions": "append"}})``.
"""

from __future__ import annotations

import json
from typing import Any

from agents import RunConfig
from agents.run import CallModelData, ModelInputData

from chatpager.client.integrations.layout import Placement, lay_out


def run_config(head: str, *, placement: Placement = "append", **more: Any) -> RunConfig:
    """For all runs of one conversation: ``head`` is the system text of every agent, and each agent's own instructions
    stand behind what was said. ``more`` are fields of ``RunConfig``; tracing, which sends what is said to OpenAI, is
    off unless they say otherwise.

    It remembers what was said to whom, so make one for each conversation, and keep it as long as that goes on.
    """
    known: dict[str, str] = {}

    def placed(data: CallModelData[Any]) -> ModelInputData:
        items: list[Any] = list(data.model_data.input)
        written = [_written(item) for item in items]
        own = data.model_data.instructions or ""
        found, new = lay_out(items, written, own, known, placement, _developer)
        if new:
            known[new.mark] = new.text
        return ModelInputData(input=found, instructions=head)

    return RunConfig(call_model_input_filter=placed, **{"tracing_disabled": True, **more})


def _written(item: Any) -> str:
    """The same for an item as it was sent and as a session gives it back."""
    said = item.get("content")
    if isinstance(said, list):
        said = "".join(part.get("text", "") for part in said)
    told = [item.get(name) for name in ("role", "call_id", "name", "arguments", "output")]
    return json.dumps([said, *told], sort_keys=True, default=str)


def _developer(text: str) -> Any:
    return {"role": "developer", "content": text}
