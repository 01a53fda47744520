"""What a wire asks for, in the words of no wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from chatpager.engine.call_grammar import CallRule
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.tool_calls import Tool
from chatpager.sessions.around import Around
from chatpager.sessions.stream import Ended
from chatpager.store import NewMessage, TurnKind

if TYPE_CHECKING:
    from chatpager.sessions.turn import LiveTurn

OnDisconnect = Literal["continue", "cancel"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnRequest:
    """What a wire asks for. ``messages`` is the turn's input; for a stateless wire (``whole``) it is the whole
    conversation, of which the beginning may be stored already. ``instructions`` stand at the head of the prompt, those
    of the ``tail`` at its end; neither are part of the conversation. ``stored`` False keeps nothing: such a turn cannot
    be found again. Without ``generate`` the prompt is computed and there is no answer: whoever goes on from there finds
    it done. ``compare_with`` names an earlier response whose prompt this one's is compared with.
    ``tools`` are shown to the model; unless it ``may_call`` them, all that it answers is text. ``call_rule`` says more
    of how. ``grammar_field`` names the field that ``params.grammar`` came from; unless it ``may_think``, that leaves no
    room for thoughts.
    ``prompt`` asks the model as it is, without a template, and there are no messages then: its text is plain, its ids
    may be any of the vocabulary; such a turn is not stored.
    ``client_key`` names the request for its tenant: a second one with the same key begins nothing.
    ``results`` names the fields of results whose calls are to be found in the history, by the calls' ids.
    ``keep_seconds`` from its end on its prefix is kept on the device, as far as the budget of leases goes, and for
    ``keep_prompt_seconds`` as much of it as this turn asked the model. ``title``: the session is called so from now on.
    ``explain``: the receipt says where the prompt left the turn before it.
    ``on_disconnect`` says whether the turn ends when its reader leaves; None leaves that to the wire.
    ``body`` makes the wire's object at the turn's end, which is stored with it as msgspec writes it."""

    id: str
    tenant: str
    kind: TurnKind
    model: str
    messages: Sequence[NewMessage]
    params: SamplingParams
    session_id: str | None = None
    previous_turn_id: str | None = None
    whole: bool = False
    instructions: str | None = None
    tail: str | None = None
    tools: Sequence[Tool] = ()
    may_call: bool = False
    prompt: str | Sequence[int] | None = None
    call_rule: CallRule | None = None
    grammar_field: str = "grammar"
    may_think: bool = True
    stored: bool = True
    generate: bool = True
    priority: int = 0
    keep_seconds: float = 0.0
    keep_prompt_seconds: float = 0.0
    on_disconnect: OnDisconnect | None = None
    explain: bool = False
    title: str | None = None
    compare_with: str | None = None
    client_key: str | None = None
    results: Mapping[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    body: Callable[[LiveTurn, Ended], object] | None = None

    @property
    def around(self) -> Around:
        return Around(self.instructions, self.tail, self.tools)

    @property
    def conversation(self) -> tuple[str, str] | None:
        """Names the session among those of all tenants."""
        return None if self.session_id is None else (self.tenant, self.session_id)


class KeyTaken(Exception):
    """The request's ``client_key`` has begun a turn already; nothing was begun."""


def choice_id(request_id: str, index: int) -> str:
    """The turn that gives a request's answer number ``index``; the first has the request's own name."""
    return f"{request_id}-{index}" if index else request_id
