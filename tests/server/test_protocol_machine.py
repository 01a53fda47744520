"""Any client against any server: whatever comes in whatever order, the protocol's promises hold.

A create that is taken is answered by one response (numbered from 0 without a gap, ``created`` first, one end, last) or
by one error; they are answered in the order in which they came; every other frame is acted on or answered by an error.
"""

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatpager.errors import ResponseNotFound, SessionBusy, StoreError
from chatpager.server.protocol import MAX_WAITING, Cancel, Create, Draft, ResponsesProtocol, State
from chatpager.sessions.stream import Ended
from tests.server.turn_logs import facts, final, log

ENDS = {"response.completed", "response.incomplete", "response.failed"}
BROKEN = ["", "{", "[]", "{}", '{"type": 1}', '{"type": "response.steer"}', '{"type": "response.cancel"}']


class Connection(RuleBasedStateMachine):
    @initialize(extended=st.booleans())
    def connect(self, extended):
        self.protocol = ResponsesProtocol(extended=extended)
        self.extended = extended
        self.sent, self.begun = 0, []
        self.waiting, self.beginning, self.running = [], None, None
        self.answers = []
        self.errors_due = 0
        self.errors = 0

    # -- the client ---------------------------------------------------------------------------------------------------

    @rule()
    def create(self):
        taken = self.protocol.state is State.IDLE or len(self.waiting) < MAX_WAITING
        self.sent += 1
        self.protocol.receive_text(json.dumps({"type": "response.create", "input": str(self.sent)}))
        if taken:
            self.waiting.append(str(self.sent))
        else:
            self.errors_due += 1
        self.settle()

    @rule(frame=st.sampled_from(BROKEN))
    def send_nonsense(self, frame):
        self.protocol.receive_text(frame)
        self.errors_due += 1
        self.settle()

    @rule()
    def send_bytes(self):
        self.protocol.receive_binary()
        self.errors_due += 1
        self.settle()

    @rule(known=st.booleans())
    def cancel(self, known):
        self.protocol.receive_text('{"type": "response.cancel", "response_id": "resp_x"}')
        assert self.protocol.events_received() == [Cancel("resp_x")]
        if not known:
            self.protocol.not_cancelled("resp_x", ResponseNotFound("no such response"))
            self.errors_due += 1
        self.settle()

    @rule(input=st.sampled_from(["a text", "", None]))
    def draft(self, input):
        self.protocol.receive_text(json.dumps({"type": "chatpager.draft", "input": input}))
        if self.extended:
            assert self.protocol.events_received() == [Draft({"input": input} if input else None)]
        else:
            self.errors_due += 1
        self.settle()

    # -- the server ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.beginning)
    @rule(
        pieces=st.lists(st.text(min_size=1, max_size=3), max_size=4),
        status=st.sampled_from(["completed", "incomplete", "cancelled", "failed", "interrupted"]),
        prefills=st.integers(0, 2),
        silent_tokens=st.integers(0, 1),
    )
    def begin(self, pieces, status, prefills, silent_tokens):
        of = facts("resp_" + self.beginning)
        tokens = len(pieces) + silent_tokens
        self.running = (of, log(*pieces, status=status, id=of.id, prefills=prefills, tokens=tokens))
        self.begun.append([])
        self.answers.append(self.beginning)
        self.beginning = None
        self.protocol.began(of)
        self.settle()

    @precondition(lambda self: self.beginning)
    @rule(error=st.sampled_from([SessionBusy("busy"), StoreError("away")]))
    def refuse(self, error):
        self.answers.append(self.beginning)
        self.beginning = None
        self.errors_due += 1
        self.protocol.refused(error)
        self.settle()

    @precondition(lambda self: self.running)
    @rule()
    def go_on(self):
        of, events = self.running
        event = events.pop(0)
        self.protocol.turn_event(event, final(event, of) if isinstance(event, Ended) else None)
        if not events:
            self.running = None
        self.settle()

    def settle(self):
        """What the server is asked to do, and what the client gets."""
        for event in self.protocol.events_received():
            assert isinstance(event, Create)
            assert self.beginning is None and self.running is None, "one response at a time"
            assert event.body == {"input": self.waiting[0]}, "in the order in which they came"
            self.beginning = self.waiting.pop(0)
        for frame in map(json.loads, self.protocol.frames_to_send()):
            if frame["type"] == "error":
                self.errors += 1
            elif frame["type"] == "chatpager.prefill":
                assert self.extended
            else:
                self.begun[-1].append(frame)

    # -- the promises -------------------------------------------------------------------------------------------------

    @invariant()
    def errors_answer_what_was_not_acted_on(self):
        assert self.errors == self.errors_due

    @invariant()
    def creates_are_answered_in_order_and_none_is_forgotten(self):
        assert self.answers == sorted(self.answers, key=int)
        busy = self.beginning is not None or self.running is not None
        assert busy or not self.waiting
        assert (self.protocol.state is State.IDLE) == (not busy)

    @invariant()
    def a_response_is_whole(self):
        for i, frames in enumerate(self.begun):
            types = [frame["type"] for frame in frames]
            assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
            once = [kind for kind in types if kind != "response.output_text.delta"]
            assert len(once) == len(set(once))
            assert types[:2] == ["response.created", "response.in_progress"][: len(types)]
            ended = i < len(self.begun) - 1 or self.running is None
            assert [kind in ENDS for kind in types].count(True) == ended
            if ended:
                assert types[-1] in ENDS
                deltas = "".join(frame["delta"] for frame in frames if "delta" in frame)
                texts = [part["text"] for item in frames[-1]["response"]["output"] for part in item["content"]]
                assert "".join(texts) == deltas


Connection.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestConnection = Connection.TestCase
