"""Three agents, one after the other, in each framework that is installed: as its users write it, and with our helper.

Each function runs one pipeline against the server at ``url``; the server remembers what each call used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any

ROLES = {"writer": "Write the story.", "critic": "Name one weakness of it.", "editor": "Say how to mend it."}
Pipeline = Callable[[str, str, str, int, bool], Coroutine[Any, Any, None]]
"""Of the server's address, what all agents are told, what the user says, the tokens of an answer, and whether with our
helper."""


async def adk(url: str, head: str, text: str, answer: int, shared: bool) -> None:
    from google.adk.agents import LlmAgent, SequentialAgent
    from google.adk.apps import App
    from google.adk.models.lite_llm import LiteLlm
    from google.adk.runners import InMemoryRunner
    from google.genai import types

    from chatpager.client.integrations.adk import ChatPagerLlm, SharedPrefixPlugin

    model: Any = LiteLlm(model="openai/default", api_base=f"{url}/v1", api_key="-", max_tokens=answer, ignore_eos=True)
    if shared:
        model = ChatPagerLlm(base_url=url, options={"max_output_tokens": answer, "ignore_eos": True})
    own = ROLES if shared else {name: f"{role}\n{head}" for name, role in ROLES.items()}
    agents: list[Any] = [LlmAgent(name=name, model=model, instruction=role) for name, role in own.items()]
    plugins: list[Any] = [SharedPrefixPlugin(head)] if shared else []
    app = App(name="bench", root_agent=SequentialAgent(name="all", sub_agents=agents), plugins=plugins)
    runner = InMemoryRunner(app=app)
    session = await runner.session_service.create_session(app_name="bench", user_id="u")
    message = types.Content(role="user", parts=[types.Part(text=text)])
    async for event in runner.run_async(user_id="u", session_id=session.id, new_message=message):
        if event.error_code and "MAX_TOKENS" not in event.error_code:  # as was asked
            raise RuntimeError(f"{event.error_code}: {event.error_message}")
    await runner.close()


async def openai_agents(url: str, head: str, text: str, answer: int, shared: bool) -> None:
    from agents import Agent, ModelSettings, OpenAIProvider, RunConfig, Runner, SQLiteSession
    from openai import AsyncOpenAI

    from chatpager.client.integrations.openai_agents import run_config

    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as client:
        provider = OpenAIProvider(openai_client=client, use_responses=True)
        settings = ModelSettings(max_tokens=answer, extra_body={"ignore_eos": True})
        config = RunConfig(model_provider=provider, tracing_disabled=True)
        if shared:
            config = run_config(head, model_provider=provider)
        session = SQLiteSession("bench")
        for name, role in ROLES.items():
            own = role if shared else f"{role}\n{head}"
            agent = Agent(name=name, instructions=own, model="default", model_settings=settings)
            await Runner.run(agent, text, session=session, run_config=config)


async def langgraph(url: str, head: str, text: str, answer: int, shared: bool) -> None:
    from langchain_core.messages import HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI
    from langgraph.graph import START, MessagesState, StateGraph

    from chatpager.client.integrations.langchain import instruction

    model = ChatOpenAI(
        model="default", base_url=f"{url}/v1", api_key="-", max_tokens=answer, extra_body={"ignore_eos": True}
    )

    def node(role: str) -> Any:
        async def run(state: Any) -> Any:
            own = [instruction(role)] if shared else []
            first = SystemMessage(head if shared else f"{role}\n{head}")
            return {"messages": [*own, await model.ainvoke([first, *state["messages"], *own])]}

        return run

    graph, before = StateGraph(MessagesState), START
    for name, role in ROLES.items():
        graph.add_node(name, node(role))
        graph.add_edge(before, name)
        before = name
    await graph.compile().ainvoke({"messages": [HumanMessage(text)]})


PIPELINES: dict[str, tuple[Pipeline, tuple[str, ...]]] = {
    "google-adk": (adk, ("google.adk", "litellm")),
    "openai-agents": (openai_agents, ("agents", "openai")),
    "langgraph": (langgraph, ("langgraph", "langchain_openai")),
}
"""By framework, with the packages that it needs."""


def installed(packages: tuple[str, ...]) -> bool:
    try:
        return all(importlib.util.find_spec(name) for name in packages)
    except ModuleNotFoundError:  # of the package that a name stands in
        return False
