"""What a program with google-adk does, run by its test with that package on the path: ``python THIS http://...``.

Three agents work one after the other on a conversation; of each the tokens of its prompt, of those the cached ones, and
the tokens of its answer are compared.
"""

import asyncio
import json
import logging
import socket
import sys
import urllib.request
import warnings
from itertools import pairwise
from typing import Literal

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

from google.adk.agents import LlmAgent, ParallelAgent, SequentialAgent  # noqa: E402
from google.adk.agents.context_cache_config import ContextCacheConfig  # noqa: E402
from google.adk.apps import App  # noqa: E402
from google.adk.models.lite_llm import LiteLlm  # noqa: E402
from google.adk.runners import InMemoryRunner  # noqa: E402
from google.adk.workflow import START, Workflow  # noqa: E402
from google.genai import types  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402
from websockets.asyncio.server import serve as serve_websocket  # noqa: E402

from chatpager.client.integrations.adk import ChatPagerLlm, SharedPrefixPlugin  # noqa: E402

URL = sys.argv[1]
BLOCK = 16
HEAD = "You work on a story together with others. Keep it short, and be kind to each other. " * 4
ROLES = {"writer": "Write the story.", "critic": "Name one weakness.", "editor": "Say how to mend it."}
OPTIONS = {"stop": ["."], "temperature": 0.0}


def lite():
    return LiteLlm(model="openai/default", api_base=f"{URL}/v1", api_key="-", **OPTIONS)


def ours():
    return ChatPagerLlm(base_url=URL, options=OPTIONS)


def agents(model, roles=ROLES):
    return [LlmAgent(name=name, model=model(), instruction=f"{HEAD}\n{role}") for name, role in roles.items()]


async def told(app, *texts):
    """What each call of the model used, by the agent that made it, in order."""
    runner = InMemoryRunner(app=app)
    session = await runner.session_service.create_session(app_name=app.name, user_id="u")
    found = []
    for text in texts:
        message = types.Content(role="user", parts=[types.Part(text=text)])
        async for event in runner.run_async(user_id="u", session_id=session.id, new_message=message):
            assert not event.error_code, event.error_message
            if usage := event.usage_metadata:
                cached = usage.cached_content_token_count or 0
                response = (event.custom_metadata or {}).get("chatpager", {}).get("response_id")
                found.append((event.author, usage.prompt_token_count, cached, usage.candidates_token_count, response))
    await runner.close()
    return found


def app(name, model, **more):
    return App(name=name, root_agent=SequentialAgent(name="all", sub_agents=agents(model)), **more)


async def sequential():
    """The second and third agent find all that was computed before them, where the layout allows it."""
    plain = await told(app("plain", lite), "A story about rain.")
    for name, model in (("plugin", lite), ("ours", ours)):
        shared = await told(app(name, model, plugins=[SharedPrefixPlugin(HEAD)]), f"A story about {name}.", "Again.")
        assert [author for author, *_ in shared] == [*ROLES, *ROLES]
        for (_, prompt, _, answer, _), (author, _, cached, *_) in pairwise(shared):
            assert cached >= prompt + answer - 1 - BLOCK, (name, author, shared)
        if model is ours:
            assert await asyncio.to_thread(instructions_told, shared) == [*ROLES.values(), *ROLES.values()]
        tail = [SharedPrefixPlugin(HEAD, placement="tail")]
        private = await told(app(f"{name}_tail", model, plugins=tail), f"A story about {name}, in private.")
        found = [cached for _, _, cached, *_ in private]
        assert found[0] < found[1] < found[2] < private[0][1], private
        fenced = [SharedPrefixPlugin(HEAD, fenced=True)]
        marked = await told(app(f"{name}_fenced", model, plugins=fenced), f"A story about {name}, marked.")
        assert marked[0][1] - BLOCK <= marked[1][2] < marked[0][1] + marked[0][3], marked
    # Without it the second agent has the head's words in common, but not where they stand: its name comes in between.
    assert plain[1][2] < plain[0][1] + plain[0][3] - 1 - BLOCK, plain


async def workflow():
    """The same agents as nodes of a graph."""
    nodes = agents(ours)
    graph = App(
        name="graph", root_agent=Workflow(name="all", edges=[(START, *nodes)]), plugins=[SharedPrefixPlugin(HEAD)]
    )
    used = await told(graph, "A story about graphs.")
    assert [author for author, *_ in used] == list(ROLES), used
    print(used, file=sys.stderr)


def instructions_told(used):
    """The last thing that each answer of ours was asked: whose it is."""
    found = []
    for *_, response_id in used:
        with urllib.request.urlopen(f"{URL}/v1/responses/{response_id}/input_items?limit=1") as answer:
            text = json.load(answer)["data"][0]["content"][0]["text"]
        found.append(next(role for role in ROLES.values() if role in text))
    return found


async def parallel():
    """Branches that begin at once share their head and what was said, and nothing of each other's."""
    branches = agents(ours, {f"reader_{n}": f"Read it as reader {n} would." for n in range(4)})
    root = SequentialAgent(name="all", sub_agents=[ParallelAgent(name="readers", sub_agents=branches), *agents(ours)])
    used = await told(App(name="parallel", root_agent=root, plugins=[SharedPrefixPlugin(HEAD)]), "Once upon a time.")
    cached = sorted(cached for _, _, cached, *_ in used[:4])
    assert cached[1] == cached[3] >= used[0][1] - 40, used


async def pinned():
    """ADK's own setting keeps the prefix on the device, with no code of ours."""
    config = ContextCacheConfig(ttl_seconds=3600, min_tokens=0)
    used = await told(app("pinned", lite, context_cache_config=config), "A story about pins.")
    found = await asyncio.to_thread(leases)
    assert any(lease["strength"] == "hard" and lease["seconds_left"] > 3000 for lease in found), found
    without = await told(app("without", lite), "A story about pins.")
    assert [prompt for _, prompt, *_ in used] == [prompt for _, prompt, *_ in without], "it stands in no prompt"


class Verdict(BaseModel):
    good: bool
    part: Literal["start", "end"]


class Story(BaseModel):
    verdicts: list[Verdict] = Field(max_length=2)


NUMBER = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
FORMS = (
    (Verdict, Verdict.model_validate),
    (Story, Story.model_validate),
    (NUMBER, lambda value: value["n"] in (1, 2)),
    (
        types.Schema(type=types.Type.OBJECT, properties={"a": types.Schema(type=types.Type.BOOLEAN)}, required=["a"]),
        lambda value: isinstance(value["a"], bool),
    ),
    (
        {"type": "OBJECT", "properties": {"b": {"type": "BOOLEAN"}}},
        lambda value: isinstance(value.get("b", True), bool),
    ),
)


async def formed():
    """An agent's ``output_schema`` is the form of what it says, and what ADK reads of it stands in the state."""
    options = {"temperature": 0.0, "max_output_tokens": 200}
    for schema, check in FORMS:
        model = ChatPagerLlm(base_url=URL, options=options)
        judge = LlmAgent(name="judge", model=model, output_schema=schema, output_key="verdict")
        _, state = await events_of(App(name="judging", root_agent=judge), "Judge it.")
        assert check(state["verdict"]), state


async def events_of(app, text):
    """All that ADK tells of a turn, and the session's state after it."""
    runner = InMemoryRunner(app=app)
    named = {"user_id": "u", "session_id": "s"}
    await runner.session_service.create_session(app_name=app.name, **named)
    message = types.Content(role="user", parts=[types.Part(text=text)])
    events = [event async for event in runner.run_async(**named, new_message=message)]
    session = await runner.session_service.get_session(app_name=app.name, **named)
    await runner.close()
    return events, session.state


async def away():
    """Who refuses, or is not there, is told as an event with the reason and the way out, and ends the turn."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    gone = ChatPagerLlm(base_url=f"http://127.0.0.1:{port}")
    [event], _ = await events_of(App(name="gone", root_agent=LlmAgent(name="one", model=gone)), "Hello")
    assert event.error_code == "server_unreachable" and f"127.0.0.1:{port}" in event.error_message, event
    assert event.error_message.endswith("chatpager demo"), event
    other = ChatPagerLlm(base_url=URL, model="chatpager/other")
    [event], _ = await events_of(App(name="other", root_agent=LlmAgent(name="one", model=other)), "Hello")
    assert event.error_code == "model_not_found" and "is not served here" in event.error_message, event
    async with serve_websocket(None, "127.0.0.1", 0, process_request=lambda c, _: c.respond(502, "gone")) as proxy:
        model = ChatPagerLlm(base_url=f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        [event], _ = await events_of(App(name="proxy", root_agent=LlmAgent(name="one", model=model)), "Hello")
    assert (event.error_code, event.error_message) == ("502", "the server answered 502"), event


def leases():
    with urllib.request.urlopen(f"{URL}/v1/cache/top?limit=100") as answer:
        return [lease for row in json.load(answer)["data"] for lease in row["leases"]]


async def main():
    await sequential()
    await workflow()
    await parallel()
    await pinned()
    await formed()
    await away()
    print("google-adk is content")


asyncio.run(main())
