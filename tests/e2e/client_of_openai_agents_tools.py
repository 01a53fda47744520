"""An agent of openai-agents that calls a tool, and one whose run is given up: ``python THIS http://...``, with a line
on its input when the second one may begin."""

import asyncio
import os
import sys
from contextlib import suppress

from agents import Agent, ModelSettings, OpenAIProvider, RunConfig, Runner, SQLiteSession, function_tool
from openai import AsyncOpenAI

URL = sys.argv[1]


@function_tool(strict_mode=False)
def search(query: str) -> str:
    """Looks up what is said."""
    assert query == "weather in Oslo"
    return "Rain."


async def calls(config, session):
    agent = Agent(name="reporter", instructions="Look it up.", tools=[search], model="default")
    result = await Runner.run(agent, "What is the weather like in Oslo?", session=session, run_config=config)
    assert result.final_output == "It rains.", result.final_output
    kinds = [item.type for item in result.new_items]
    assert kinds[-3:] == ["tool_call_item", "tool_call_output_item", "message_output_item"], kinds
    first, second = (response.usage for response in result.raw_responses)
    assert second.input_tokens_details.cached_tokens >= first.input_tokens - 8, (first, second)


async def gives_up(config):
    settings = ModelSettings(extra_body={"chatpager": {"on_disconnect": "cancel"}})
    agent = Agent(name="writer", model="default", model_settings=settings)
    begun = asyncio.Event()

    async def run():
        async for event in Runner.run_streamed(agent, "Tell a long story.", run_config=config).stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                begun.set()

    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def main():
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="-")
    for websocket in (True, False):
        provider = OpenAIProvider(openai_client=client, use_responses=True, use_responses_websocket=websocket)
        config = RunConfig(model_provider=provider, tracing_disabled=True)
        await calls(config, SQLiteSession(f"calls {websocket}"))
    print("called", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    provider = OpenAIProvider(openai_client=client, use_responses=True, use_responses_websocket=True)
    await gives_up(RunConfig(model_provider=provider, tracing_disabled=True))
    print("given up", flush=True)
    os._exit(0)  # what libraries tidy up at an exit may take longer than the test's gate waits


asyncio.run(main())
