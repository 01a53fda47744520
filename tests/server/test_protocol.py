"""The WebSocket's protocol without a socket: what each frame and each call leads to."""

import json

import pytest

from chatpager.errors import (
    ChatpagerError,
    EngineStopped,
    Forbidden,
    NumericError,
    Overloaded,
    RateLimited,
    ResponseNotFound,
    SessionBusy,
    StoreError,
    TooManyLanes,
)
from chatpager.server.client_events import Cancel, Create, Draft, Resume, Withdraw
from chatpager.server.error_bodies import error_body
from chatpager.server.protocol import (
    MAX_LANE_NAME,
    MAX_LANES,
    MAX_WAITING,
    TRANSITIONS,
    Call,
    ResponsesProtocol,
    State,
)
from chatpager.sessions.stream import Ended
from tests.server.turn_logs import facts, final, log


@pytest.fixture
def protocol():
    return ResponsesProtocol()


def frames(protocol):
    return [json.loads(frame) for frame in protocol.frames_to_send()]


def create(protocol, **body):
    protocol.receive_text(json.dumps({"type": "response.create", **body}))


def stream(protocol, of, events):
    protocol.began(of)
    for event in events:
        protocol.turn_event(event, final(event, of) if isinstance(event, Ended) else None)


def test_a_create_is_acted_on_once_with_its_body(protocol):
    create(protocol, input="Hello", temperature=0)
    assert protocol.events_received() == [Create({"input": "Hello", "temperature": 0})]
    assert protocol.events_received() == []
    assert frames(protocol) == []


def test_a_draft_is_for_clients_of_ours():
    protocol = ResponsesProtocol(extended=True)
    protocol.receive_text('{"type": "chatpager.draft", "input": "Hel", "conversation": "c"}')
    for nothing in ("", ', "input": null', ', "input": ""', ', "input": []'):
        protocol.receive_text('{"type": "chatpager.draft"' + nothing + "}")
    protocol.receive_text('{"type": "chatpager.draft", "input": false}')
    kept = []
    for text in ("Hello", ""):
        protocol.receive_frame({"type": "chatpager.draft", "input": text}, lambda: kept.append("once"))
    drafts = [{"input": "Hel", "conversation": "c"}, *[None] * 4, {"input": False}, {"input": "Hello"}, None]
    assert protocol.events_received() == list(map(Draft, drafts)) and kept == ["once"]
    assert frames(protocol) == []


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        ('{"type": "chatpager.prefetch"}', "conversation"),
        ('{"type": "chatpager.prefetch", "conversation": 3, "stream_id": "a"}', "conversation"),
        ('{"type": "chatpager.ping", "t": "now"}', "t"),
    ],
)
def test_an_error_that_is_no_response_s_says_what_it_is_about(frame, param):
    protocol = ResponsesProtocol(extended=True)
    protocol.receive_text(frame)
    [error] = frames(protocol)
    assert (error["status"], error["error"]["code"], error["error"]["param"]) == (400, "invalid_request", param)
    assert error["about"] == json.loads(frame)["type"] and "stream_id" not in error
    protocol.refused_aside("chatpager.draft", SessionBusy("wait"))
    [error] = frames(protocol)
    assert (error["about"], error["error"]["code"]) == ("chatpager.draft", "session_busy")


def test_fields_that_tell_http_how_to_answer_mean_nothing_here(protocol):
    create(protocol, input="Hello", stream=False, background=True)
    assert protocol.events_received() == [Create({"input": "Hello"})]


def test_a_response_streams_in_the_order_of_its_log(protocol):
    create(protocol, input="Hello")
    stream(protocol, facts(), log("Hel", "lo", prefills=2))
    sent = frames(protocol)
    assert [frame["type"] for frame in sent] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [frame["sequence_number"] for frame in sent] == list(range(10))
    assert protocol.state() is State.IDLE


def test_only_extended_clients_see_the_prefill():
    def types(extended):
        protocol = ResponsesProtocol(extended=extended)
        create(protocol, input="Hello")
        stream(protocol, facts(), log("Hello", prefills=2))
        return [frame["type"] for frame in frames(protocol)]

    plain, extended = types(False), types(True)
    assert "chatpager.prefill" not in plain
    assert extended == [*plain[:2], "chatpager.prefill", "chatpager.prefill", *plain[2:]]


def test_creates_wait_for_their_turn_in_order(protocol):
    for name in "abc":
        create(protocol, input=name)
    for name in "abc":
        assert protocol.events_received() == [Create({"input": name})]
        stream(protocol, facts("resp_" + name), log(name, id="resp_" + name))
        assert {frame["response"]["id"] for frame in frames(protocol) if "response" in frame} == {"resp_" + name}
    assert protocol.events_received() == []


def test_a_refused_create_is_answered_and_the_next_one_begins(protocol):
    create(protocol, input="a")
    create(protocol, input="b")
    protocol.events_received()
    protocol.refused(SessionBusy("wait", param="conversation"))
    assert frames(protocol) == [
        {
            "type": "error",
            "status": 409,
            "error": {
                "message": "wait", "type": "invalid_request_error", "param": "conversation", "code": "session_busy",
            },
        }
    ]  # fmt: skip
    assert protocol.events_received() == [Create({"input": "b"})]
    assert protocol.state() is State.BEGINNING


def test_so_many_creates_may_wait_and_no_more(protocol):
    for _ in range(1 + MAX_WAITING):
        create(protocol, input="a")
    assert frames(protocol) == []
    create(protocol, input="one too many")
    [error] = frames(protocol)
    assert (error["status"], error["error"]["code"]) == (503, "server_is_overloaded")
    assert error["about"] == "response.create"
    for _ in range(1 + MAX_WAITING):
        assert protocol.events_received() == [Create({"input": "a"})]
        protocol.refused(SessionBusy("no"))
    assert protocol.events_received() == []


@pytest.mark.parametrize("state", State)
def test_cancel_is_passed_on_in_every_state(protocol, state):
    bring_to(protocol, state)
    protocol.receive_text('{"type": "response.cancel", "response_id": "resp_9"}')
    assert protocol.events_received() == [Cancel("resp_9")]
    protocol.not_cancelled("resp_9", ResponseNotFound("no response 'resp_9' is running"))
    [error] = frames(protocol)
    assert (error["status"], error["error"]["code"]) == (404, "response_not_found")
    assert error["about"] == "response.cancel"
    assert protocol.state() is state


def test_a_cancel_that_comes_while_the_end_is_on_its_way_is_no_error(protocol):
    bring_to(protocol, State.STREAMING)
    protocol.not_cancelled("resp_1", ResponseNotFound("no response 'resp_1' is running"))
    assert frames(protocol) == []
    protocol.not_cancelled("resp_1", EngineStopped("the engine has stopped"))
    [error] = frames(protocol)
    assert error["error"]["code"] == "engine_stopped"


def bring_to(protocol, state):
    if state is not State.IDLE:
        create(protocol, input="a")
    if state is State.STREAMING:
        protocol.began(facts())
    protocol.events_received()
    assert protocol.state() is state


# -- lanes and resuming -----------------------------------------------------------------------------------------------


def test_lanes_go_on_side_by_side_and_each_event_has_its_lane(protocol):
    create(protocol, input="a", stream_id="left")
    create(protocol, input="b", stream_id="right")
    create(protocol, input="c")
    create(protocol, input="d", stream_id="left")
    assert protocol.events_received() == [
        Create({"input": "a"}, "left"),
        Create({"input": "b"}, "right"),
        Create({"input": "c"}),
    ]
    for lane, name in (("left", "resp_a"), ("right", "resp_b"), (None, "resp_c")):
        protocol.began(facts(name), lane)
    logs = {lane: log("Hi", id=name) for lane, name in (("left", "resp_a"), ("right", "resp_b"), (None, "resp_c"))}
    for events in zip(*logs.values(), strict=True):
        for lane, event in zip(logs, events, strict=True):
            of = facts({"left": "resp_a", "right": "resp_b", None: "resp_c"}[lane])
            protocol.turn_event(event, final(event, of) if isinstance(event, Ended) else None, lane)
    told = frames(protocol)
    for lane in logs:
        mine = [frame["sequence_number"] for frame in told if frame.get("stream_id") == lane]
        assert mine == list(range(len(told) // 3))
    assert protocol.events_received() == [Create({"input": "d"}, "left")]


def test_an_error_belongs_to_the_lane_of_what_it_answers(protocol):
    create(protocol, input="a", stream_id='"\u00e9\n')
    protocol.events_received()
    protocol.refused(SessionBusy("wait"), '"\u00e9\n')
    assert [frame["stream_id"] for frame in frames(protocol)] == ['"\u00e9\n']
    assert protocol.state('"\u00e9\n') is State.IDLE


def test_so_many_lanes_and_no_more(protocol):
    for lane in range(MAX_LANES):
        create(protocol, input="a", stream_id=str(lane))
    create(protocol, input="a", stream_id="too many")
    [error] = frames(protocol)
    assert (error["status"], error["error"]["code"], error["stream_id"]) == (429, "too_many_lanes", "too many")
    assert "about" not in error, "it is the answer of that lane"
    protocol.refused(SessionBusy("no"), "0")
    frames(protocol)
    create(protocol, input="a", stream_id="too many")
    assert frames(protocol) == []


def test_what_waits_is_counted_over_all_lanes(protocol):
    for i in range(MAX_WAITING + 2):
        create(protocol, input="a", stream_id=str(i % 2))
    create(protocol, input="a", stream_id="0")
    [error] = frames(protocol)
    assert error["error"]["code"] == "server_is_overloaded"


def test_a_lane_is_cancelled_by_its_name(protocol):
    cancel = json.dumps({"type": "response.cancel", "stream_id": "left"})
    protocol.receive_text(cancel)
    assert [frame["error"]["code"] for frame in frames(protocol)] == ["response_not_found"]
    create(protocol, input="a", stream_id="left")
    protocol.events_received()
    protocol.receive_text(cancel)
    protocol.receive_text(cancel)
    assert protocol.events_received() == [Withdraw("left")]
    protocol.began(facts("resp_a"), "left")
    assert protocol.events_received() == [Cancel("resp_a", "left")]
    protocol.receive_text(cancel)
    assert protocol.events_received() == [Cancel("resp_a", "left")]
    create(protocol, input="b", stream_id="left")
    for event in log(id="resp_a"):
        protocol.turn_event(event, final(event, facts("resp_a")) if isinstance(event, Ended) else None, "left")
    assert protocol.events_received() == [Create({"input": "b"}, "left")]
    protocol.began(facts("resp_b"), "left")
    assert protocol.events_received() == [], "the one before was cancelled, not this one"


def test_a_resumed_response_goes_on_behind_what_the_client_has(protocol):
    create(protocol, input="a")
    stream(protocol, facts(), log("Hel", "lo"))
    whole = frames(protocol)
    for after in range(-1, len(whole)):
        protocol.receive_text(json.dumps({"type": "response.resume", "response_id": "resp_1", "starting_after": after}))
        assert Resume("resp_1", after) in protocol.events_received()
        protocol.began(facts(), after=after)
        for event in log("Hel", "lo"):
            protocol.turn_event(event, final(event, facts()) if isinstance(event, Ended) else None)
        assert frames(protocol) == (whole[after + 1 :] or whole[-1:]), "the end is told whatever the client has"
        assert protocol.state() is State.IDLE


DEEP = "[" * 5000 + "]" * 5000
MALFORMED = {
    "": "invalid_json",
    "{": "invalid_json",
    '{"type": "response.create", "temperature": 1e999, "input": ': "invalid_json",
    '{"type": "response.create", "temperature": 1e999} {': "invalid_json",
    '{"type": "response.create", "temperature": 1e999, "input": ' + DEEP + "}": "invalid_json",
    "nonsense": "invalid_json",
    "[]": "invalid_json",
    '"response.create"': "invalid_json",
    "null": "invalid_json",
    '{"type": "response.create", "temperature": NaN}': "invalid_json",
    '{"type": "response.create", "temperature": 1e999}': "invalid_request",
    '{"type": "response.create", "seed": ' + "1" * 5000 + "}": "invalid_request",
    '{"type": "response.create", "input": "\\ud800"}': "invalid_json",
    '{"type": "response.create", "input": "\ud800"}': "invalid_json",
    '{"type": "response.create", "input": ' + DEEP + "}": "invalid_json",
    "{}": "unsupported_event",
    '{"type": null}': "unsupported_event",
    '{"type": ["response.create"]}': "unsupported_event",
    '{"type": ' + "[" * 900 + "]" * 900 + "}": "unsupported_event",
    '{"type": "response.steer"}': "unsupported_event",
    '{"type": "chatpager.draft", "input": "a"}': "unsupported_event",
    '{"type": "' + "x" * 100_000 + '"}': "unsupported_event",
    '{"type": "response.cancel"}': "invalid_request",
    '{"type": "response.cancel", "response_id": 3}': "invalid_request",
    '{"type": "response.cancel", "stream_id": 3}': "invalid_request",
    '{"type": "response.create", "stream_id": 3}': "invalid_request",
    '{"type": "response.create", "stream_id": ""}': "invalid_request",
    '{"type": "response.create", "stream_id": "' + "x" * (MAX_LANE_NAME + 1) + '"}': "invalid_request",
    '{"type": "response.resume"}': "invalid_request",
    '{"type": "response.resume", "response_id": 3}': "invalid_request",
    '{"type": "response.resume", "response_id": "' + 129 * "r" + '"}': "invalid_request",
    '{"type": "response.resume", "response_id": "r", "starting_after": "1"}': "invalid_request",
    '{"type": "response.resume", "response_id": "r", "starting_after": true}': "invalid_request",
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    "data", MALFORMED, ids=lambda d: d[:40].encode("ascii", "backslashreplace").decode() or "empty"
)
def test_a_malformed_frame_is_answered_and_changes_nothing(protocol, state, data):
    bring_to(protocol, state)
    protocol.receive_text(data)
    assert protocol.events_received() == []
    [frame] = protocol.frames_to_send()
    assert len(frame) < 500
    error = json.loads(frame)
    assert (error["type"], error["status"], error["error"]["code"]) == ("error", 400, MALFORMED[data])
    assert error.get("about") == about(data, state)
    assert protocol.state() is state


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ('{"type": "response.cancel"}', "response_id is missing, and so is stream_id: null is the lane without a name"),
        ('{"type": "response.cancel", "response_id": 5}', "response_id is a text of at most 128 characters"),
        ('{"type": "response.resume"}', "response_id is missing"),
        ('{"type": "response.resume", "response_id": null}', "response_id is a text of at most 128 characters"),
    ],
)
def test_what_is_wrong_with_an_id_is_said(protocol, frame, told):
    protocol.receive_text(frame)
    [error] = frames(protocol)
    assert (error["error"]["message"], error["error"]["param"]) == (told, "response_id")


def about(data, state):
    """None where the error is the answer of the response that the frame asked for."""
    if MALFORMED[data] == "invalid_json" or "1e999" in data or "1" * 5000 in data:
        return None if state is State.IDLE else "frame"
    kind = json.loads(data).get("type")
    if kind in ("response.create", "response.resume") and state is State.IDLE:
        return None
    return kind if isinstance(kind, str) and len(kind) < 100 else "frame"


def test_a_binary_frame_is_answered(protocol):
    protocol.receive_binary()
    [error] = frames(protocol)
    assert (error["status"], error["error"]["code"]) == (400, "invalid_request")
    assert "about" not in error, "nobody shall wait for a response"
    assert protocol.state() is State.IDLE


CALLS = {
    Call.CREATE: lambda p: p._move(Call.CREATE, None),
    Call.BEGAN: lambda p: p.began(facts()),
    Call.REFUSED: lambda p: p.refused(SessionBusy("no")),
    Call.ENDED: lambda p: p.turn_event(log()[-1], final(log()[-1], facts())),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("call", Call)
def test_the_table_of_states_is_the_whole_truth(protocol, state, call):
    bring_to(protocol, state)
    if (state, call) not in TRANSITIONS:
        with pytest.raises(AssertionError):
            CALLS[call](protocol)
    else:
        CALLS[call](protocol)
        assert protocol.state() is TRANSITIONS[state, call]


@pytest.mark.parametrize(
    ("error", "status", "type", "code", "message"),
    [
        (Forbidden("no \udcff"), 403, "permission_error", "forbidden", "no \\udcff"),
        (Overloaded("later"), 503, "server_error", "server_is_overloaded", "later"),
        (NumericError("not numbers"), 500, "server_error", "engine_numeric_error", "not numbers"),
        (EngineStopped("it stopped"), 503, "server_error", "engine_stopped", "it stopped"),
        (
            StoreError("the database /home/ada/chat.db is locked"), 503, "server_error", "storage_unavailable",
            "the server's database does not take this now; try again later",
        ),
        (ChatpagerError("secret"), 500, "server_error", "internal_error", "internal error"),
    ],
)  # fmt: skip
def test_errors_on_the_wire(error, status, type, code, message):
    got, body = error_body(error)
    assert (got, body.type, body.code, body.message, body.param) == (status, type, code, message, None)


@pytest.mark.parametrize(
    ("error", "milliseconds"),
    [
        (RateLimited("later", retry_after=2.5), 2500),
        (Overloaded("later", retry_after=0.25), 250),
        (TooManyLanes("later"), 1000),
        (StoreError("away"), 1000),
        (EngineStopped("it stopped"), None),
        (SessionBusy("wait"), None),
        (ChatpagerError("secret"), None),
    ],
)
def test_an_error_that_may_go_well_later_says_when(protocol, error, milliseconds):
    create(protocol, input="a")
    protocol.refused(error)
    [frame] = frames(protocol)
    assert frame.get("retry_after_ms", None) == milliseconds
    assert set(frame) == {"type", "status", "error"} | ({"retry_after_ms"} if milliseconds else set())


@pytest.mark.parametrize("kind", ["response.steer", "response.inject", "session.update"])
def test_what_openai_has_and_we_have_not_is_an_error_and_the_socket_lives_on(protocol, kind):
    protocol.receive_text(json.dumps({"type": kind, "response_id": "resp_1"}))
    [error] = frames(protocol)
    assert (error["status"], error["error"]["code"]) == (400, "unsupported_event")
    create(protocol, input="Hello")
    assert protocol.events_received() == [Create({"input": "Hello"})]


@pytest.mark.parametrize("t", [0, 1723.25, None])
def test_a_ping_comes_back_with_its_time(t):
    extended = ResponsesProtocol(extended=True)
    extended.receive_text(json.dumps({"type": "chatpager.ping", "t": t}))
    assert frames(extended) == [{"type": "chatpager.pong", "t": t}]
    assert extended.events_received() == []


@pytest.mark.parametrize("t", ["now", True, [], {}])
def test_a_ping_s_time_is_a_number(t):
    extended = ResponsesProtocol(extended=True)
    extended.receive_text(json.dumps({"type": "chatpager.ping", "t": t}))
    [error] = frames(extended)
    assert error["error"]["param"] == "t"


def test_a_ping_is_only_for_those_who_know_us(protocol):
    protocol.receive_text('{"type": "chatpager.ping", "t": 1}')
    [error] = frames(protocol)
    assert error["error"]["code"] == "unsupported_event"
