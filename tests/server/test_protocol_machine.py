"""Any client against any server: whatever comes in whatever order, the protocol's promises hold.

A create that is taken is answered by one response (numbered from 0 without a gap, ``created`` first, one end, last) or
by one error; in a lane they are answered in the order in which they came, one at a time; whatever other lanes do, all
of a lane's frames have its name; every other frame is acted on or answered by an error.
"""

import json
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatpager.errors import ResponseNotFound, SessionBusy, StoreError
from chatpager.server.client_events import Cancel, Create, Draft
from chatpager.server.protocol import MAX_WAITING, ResponsesProtocol, State
from chatpager.sessions.stream import Ended
from tests.server.turn_logs import facts, final, log

ENDS = {"response.completed", "response.incomplete", "response.failed"}
BROKEN = ["", "{", "[]", "{}", '{"type": 1}', '{"type": "response.steer"}', '{"type": "response.cancel"}']


LANES = [None, "left", "right"]
lanes = st.sampled_from(LANES)


class Lane:
    """What a client and a server know of one."""

    def __init__(self):
        self.begun, self.answers = [], []
        self.waiting, self.beginning, self.running = [], None, None


class Connection(RuleBasedStateMachine):
    @initialize(extended=st.booleans())
    def connect(self, extended):
        self.protocol = ResponsesProtocol(extended=extended)
        self.extended = extended
        self.sent = 0
        self.lanes = {name: Lane() for name in LANES}
        self.errors_due = Counter()
        self.errors = Counter()

    # -- the client ---------------------------------------------------------------------------------------------------

    @rule(name=lanes)
    def create(self, name):
        waiting = sum(len(lane.waiting) for lane in self.lanes.values())
        idle = self.lanes[name].beginning is None and self.lanes[name].running is None
        self.sent += 1
        frame = {"type": "response.create", "input": str(self.sent), "stream_id": name}
        self.protocol.receive_text(json.dumps(frame))
        if waiting < MAX_WAITING or idle:
            self.lanes[name].waiting.append(str(self.sent))
        else:
            self.errors_due[name] += 1
        self.settle()

    @rule(frame=st.sampled_from(BROKEN))
    def send_nonsense(self, frame):
        self.protocol.receive_text(frame)
        self.errors_due[None] += 1
        self.settle()

    @rule()
    def send_bytes(self):
        self.protocol.receive_binary()
        self.errors_due[None] += 1
        self.settle()

    @rule(known=st.booleans())
    def cancel(self, known):
        self.protocol.receive_text('{"type": "response.cancel", "response_id": "resp_x"}')
        assert self.protocol.events_received() == [Cancel("resp_x")]
        if not known:
            self.protocol.not_cancelled("resp_x", ResponseNotFound("no such response"))
            self.errors_due[None] += 1
        self.settle()

    @rule(input=st.sampled_from(["a text", "", None]))
    def draft(self, input):
        self.protocol.receive_text(json.dumps({"type": "chatpager.draft", "input": input}))
        if self.extended:
            assert self.protocol.events_received() == [Draft({"input": input} if input else None)]
        else:
            self.errors_due[None] += 1
        self.settle()

    # -- the server ---------------------------------------------------------------------------------------------------

    @rule(
        name=lanes,
        pieces=st.lists(st.text(min_size=1, max_size=3), max_size=4),
        status=st.sampled_from(["completed", "incomplete", "cancelled", "failed", "interrupted"]),
        prefills=st.integers(0, 2),
        silent_tokens=st.integers(0, 1),
    )
    def begin(self, name, pieces, status, prefills, silent_tokens):
        lane = self.lanes[name]
        if not lane.beginning:
            return
        of = facts("resp_" + lane.beginning)
        tokens = len(pieces) + silent_tokens
        lane.running = (of, log(*pieces, status=status, id=of.id, prefills=prefills, tokens=tokens))
        lane.begun.append([])
        lane.answers.append(lane.beginning)
        lane.beginning = None
        self.protocol.began(of, name)
        self.settle()

    @rule(name=lanes, error=st.sampled_from([SessionBusy("busy"), StoreError("away")]))
    def refuse(self, name, error):
        lane = self.lanes[name]
        if not lane.beginning:
            return
        lane.answers.append(lane.beginning)
        lane.beginning = None
        self.errors_due[name] += 1
        self.protocol.refused(error, name)
        self.settle()

    @precondition(lambda self: any(lane.running for lane in self.lanes.values()))
    @rule(data=st.data())
    def go_on(self, data):
        name = data.draw(st.sampled_from([name for name, lane in self.lanes.items() if lane.running]))
        lane = self.lanes[name]
        of, events = lane.running
        event = events.pop(0)
        self.protocol.turn_event(event, final(event, of) if isinstance(event, Ended) else None, name)
        if not events:
            lane.running = None
        self.settle()

    def settle(self):
        """What the server is asked to do, and what the client gets."""
        for event in self.protocol.events_received():
            assert isinstance(event, Create)
            lane = self.lanes[event.lane]
            assert lane.beginning is None and lane.running is None, "one response at a time"
            assert event.body == {"input": lane.waiting[0]}, "in the order in which they came"
            lane.beginning = lane.waiting.pop(0)
        for frame in map(json.loads, self.protocol.frames_to_send()):
            if frame["type"] == "error":
                self.errors[frame.get("stream_id")] += 1
            elif frame["type"] == "chatpager.prefill":
                assert self.extended
            else:
                self.lanes[frame.pop("stream_id", None)].begun[-1].append(frame)

    # -- the promises -------------------------------------------------------------------------------------------------

    @invariant()
    def errors_answer_what_was_not_acted_on(self):
        assert self.errors == self.errors_due

    @invariant()
    def creates_are_answered_in_order_and_none_is_forgotten(self):
        for name, lane in self.lanes.items():
            assert lane.answers == sorted(lane.answers, key=int)
            busy = lane.beginning is not None or lane.running is not None
            assert busy or not lane.waiting
            assert (self.protocol.state(name) is State.IDLE) == (not busy)

    @invariant()
    def a_response_is_whole(self):
        for lane in self.lanes.values():
            for i, frames in enumerate(lane.begun):
                is_whole(frames, ended=i < len(lane.begun) - 1 or lane.running is None)


def is_whole(frames, *, ended):
    types = [frame["type"] for frame in frames]
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    once = [kind for kind in types if kind != "response.output_text.delta"]
    assert len(once) == len(set(once))
    assert types[:2] == ["response.created", "response.in_progress"][: len(types)]
    assert [kind in ENDS for kind in types].count(True) == ended
    if ended:
        assert types[-1] in ENDS
        deltas = "".join(frame["delta"] for frame in frames if "delta" in frame)
        texts = [part["text"] for item in frames[-1]["response"]["output"] for part in item["content"]]
        assert "".join(texts) == deltas


Connection.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestConnection = Connection.TestCase
