"""LangChain and LangGraph: nodes whose instructions stand behind the conversation.

::

    async def critic(state: MessagesState):
        own = instruction("You are the critic. Name one weakness.")
        return {"messages": [own, await model.ainvoke([HEAD, *state["messages"], own])]}

``HEAD`` is the one ``SystemMessage`` of all nodes. A node that puts its own instruction into the state, as here, leaves
all of its prompt to the next one; a node that keeps it to itself leaves what stood before it.

``ChatOpenAI(use_previous_response_id=True)`` drops a node's system message in silence once there is an earlier
response. Leave it out: the server finds the history by itself.
"""

from __future__ import annotations

from langchain_core.messages import HumanMessage


def instruction(text: str) -> HumanMessage:
    """A node's instruction as a message, for chat templates that take a system message only at the beginning."""
    return HumanMessage(f"[instruction]\n{text}")
