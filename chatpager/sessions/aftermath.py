"""What the end of a turn leaves to its conversation: its new head, what is remembered of it, how long it is kept."""

from __future__ import annotations

from chatpager.sessions.heads import Heads
from chatpager.sessions.keeping import Keeper
from chatpager.sessions.remembered import Remembered
from chatpager.sessions.stream import Ended
from chatpager.sessions.tool_waits import ToolWaits
from chatpager.sessions.turn import LiveTurn
from chatpager.store import MessageHash


class Aftermath:
    def __init__(self, heads: Heads, remembered: Remembered, keeper: Keeper, tool_waits: ToolWaits) -> None:
        self._heads = heads
        self._remembered = remembered
        self._keeper = keeper
        self._tool_waits = tool_waits

    def of(self, turn: LiveTurn, ended: Ended, tip: MessageHash | None) -> None:
        """``tip``: the conversation's last message now; None where the turn left it as it was."""
        if ended.status == "completed" and not turn.request.generate:
            tip = turn.input_tip
        if turn.is_deleted and turn.owner:  # and the engine may have been told before it began the turn
            self._keeper.closed(turn.owner)
        if tip is None or turn.receipt is None:
            self._heads.stayed(turn.request, turn.owner, turn.parent)
            return
        self._remembered.put(tip, turn.computed_ids(), turn.receipt.published)
        if displaced := self._heads.moved(turn.request, turn.owner, tip):
            # With instructions or tools around it the same conversation has other blocks.
            same = not (turn.request.instructions or turn.request.tools)
            self._keeper.replaced(displaced, turn.owner) if same else self._keeper.closed(displaced)
        if calls := [call for call in ended.calls if call.is_whole]:
            self._tool_waits.called(turn.request.tenant, turn.owner, calls)
        else:
            self._keeper.alive([turn.owner])
        self._keeper.keep(turn.owner, turn.request.keep_seconds)
        self._keeper.keep(turn.owner, turn.request.keep_prompt_seconds, len(turn.prompt))
