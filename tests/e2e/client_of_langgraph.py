"""What a program with LangGraph does, run by its test with that package on the path: ``python THIS http://...``."""

import asyncio
import sys

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph

from chatpager.client.integrations.langchain import instruction

URL = sys.argv[1]
BLOCK = 16
TOLD = "You work on a story together with others. Keep it short, and be kind to each other. " * 4
ROLES = {"writer": "Write the story.", "critic": "Name one weakness."}


def model(**more):
    return ChatOpenAI(
        model="default", base_url=f"{URL}/v1", api_key="-", temperature=0.0, max_tokens=24, max_retries=0, **more
    )


async def used(model, layout, name):
    """What each node used, in order; ``layout`` makes a node's messages of the state's and its role. ``name`` makes all
    of it another conversation, from the first word on."""
    found, head = [], f"{name}: {TOLD}"

    def node(role):
        async def run(state):
            own, messages = layout(head, role, state["messages"])
            answer = await model.ainvoke(messages)
            usage = answer.usage_metadata
            found.append((usage["input_tokens"], usage["input_token_details"]["cache_read"], usage["output_tokens"]))
            return {"messages": [*own, answer]}

        return run

    graph = StateGraph(MessagesState)
    for name, role in ROLES.items():
        graph.add_node(name, node(role))
    graph.add_edge(START, "writer")
    graph.add_edge("writer", "critic")
    graph.add_edge("critic", END)
    await graph.compile().ainvoke({"messages": [HumanMessage("A story about rain.")]})
    return found


def plain(head, role, messages):
    return [], [SystemMessage(f"{head}\n{role}"), *messages]


def shared(head, role, messages):
    own = instruction(role)
    return [own], [SystemMessage(head), *messages, own]


async def main():
    for name, kind in (("Chat", model()), ("Responses", model(use_responses_api=True))):
        first, second = await used(kind, plain, f"{name}, plain")
        assert second[1] < first[0] + first[2] - 1 - BLOCK, (first, second)
        first, second = await used(kind, shared, name)
        assert second[1] >= first[0] + first[2] - 1 - BLOCK, (first, second)
    first, second = await used(model(use_responses_api=True, use_previous_response_id=True), plain, "Previous")
    assert second[1] > 0, "the second node's own message is dropped by the client, and the server goes on"
    print("langgraph is content")


asyncio.run(main())
