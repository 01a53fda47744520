"""The OpenAI Agents SDK: agents whose instructions stand behind the conversation.

::

    provider = OpenAIProvider(openai_client=AsyncOpenAI(base_url="http://127.0.0.1:8000/v1", api_key="-"),
                              use_responses_websocket=True)
    shared = run_config("You work on a story together.", model_provider=provider, model="default")
    for agent in (writer, critic):
        await Runner.run(agent, "Go on.", session=session, run_config=shared)
"""

from __future__ import annotations

from typing import Any

from agents import RunConfig
from agents.run import CallModelData, ModelInputData

from chatpager.client.integrations.layout import Placed, Placement, place, woven


def run_config(head: str, *, placement: Placement = "append", **more: Any) -> RunConfig:
    """For all runs of one conversation: ``head`` is the system text of every agent, and each agent's own instructions
    stand behind what was said. ``more`` are fields of ``RunConfig``.

    It remembers where the instructions stand, so make one for each conversation, and keep it as long.
    """
    placed: list[Placed] = []

    def lay_out(data: CallModelData[Any]) -> ModelInputData:
        items, own = list(data.model_data.input), data.model_data.instructions or ""
        placed[:] = place(len(items), own, [one for one in placed if one.after <= len(items)], placement)
        return ModelInputData(input=woven(items, placed, _developer), instructions=head)

    return RunConfig(call_model_input_filter=lay_out, **{"tracing_disabled": True, **more})


def _developer(text: str) -> Any:
    return {"role": "developer", "content": text}
