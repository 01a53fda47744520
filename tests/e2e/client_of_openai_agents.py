"""What a program with openai-agents does, run by its test with that package on the path: ``python THIS http://...``."""

import asyncio
import sys
from itertools import pairwise

from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIProvider,
    RunConfig,
    Runner,
    SQLiteSession,
)
from openai import AsyncOpenAI

from chatpager.client.integrations.openai_agents import run_config

URL = sys.argv[1]
BLOCK = 16
HEAD = "You work on a story together with others. Keep it short, and be kind to each other. " * 4
ROLES = {"writer": "Write the story.", "critic": "Name one weakness.", "editor": "Say how to mend it."}
SETTINGS = ModelSettings(temperature=0.0, extra_body={"stop": ["."]})


def usage(result):
    [response] = result.raw_responses
    return response.usage.input_tokens, response.usage.input_tokens_details.cached_tokens, response.usage.output_tokens


async def pipeline(session, config, head=HEAD):
    found = []
    for name, role in ROLES.items():
        agent = Agent(name=name, instructions=f"{head}\n{role}", model="default", model_settings=SETTINGS)
        found.append(usage(await Runner.run(agent, "Go on with the story.", session=session, run_config=config)))
    return found


def assert_shared(used):
    for (prompt, _, answer), (_, cached, _) in pairwise(used):
        assert cached >= prompt + answer - 1 - BLOCK, used


async def main():
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="-")
    for websocket in (True, False):
        provider = OpenAIProvider(openai_client=client, use_responses=True, use_responses_websocket=websocket)
        plain_config = RunConfig(model_provider=provider, tracing_disabled=True)
        plain = await pipeline(SQLiteSession("plain"), plain_config, f"{websocket}: {HEAD}")
        assert plain[1][1] < plain[0][0] + plain[0][2] - 1 - BLOCK, plain
        assert_shared(await pipeline(SQLiteSession("shared"), run_config(HEAD, model_provider=provider)))
        stored = OpenAIConversationsSession(openai_client=client)
        assert_shared(await pipeline(stored, run_config(HEAD, model_provider=provider)))
        count = len(await stored.get_items())
        assert (await stored.pop_item())["role"] == "assistant" and len(await stored.get_items()) == count - 1
        await stored.clear_session()
        agent = Agent(name="writer", instructions=HEAD, model="default", model_settings=SETTINGS)
        config = RunConfig(model_provider=provider, tracing_disabled=True)
        first = await Runner.run(agent, "A story.", run_config=config, auto_previous_response_id=True)
        second = await Runner.run(agent, "Go on.", run_config=config, previous_response_id=first.last_response_id)
        assert_shared([usage(first), usage(second)])
        streamed = Runner.run_streamed(agent, "Another story.", run_config=config)
        async for event in streamed.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                streamed.cancel()
    print("openai-agents is content")


asyncio.run(main())
