"""Sockets that are lost, and what goes on where they were: by the address, and by a frame."""

import gc

import pytest
from websockets.exceptions import InvalidStatus

from chatpager.server.replaying import FRAME_BYTES, Replays
from tests.serving import GREEDY

LONG = {**GREEDY, "max_output_tokens": 40}


async def test_a_lost_socket_s_response_goes_on_at_the_next_event(server):
    server.gate.hold(after=5)
    async with server.socket() as socket:
        await socket.create("Hello", **LONG)
        got = [await socket.receive() for _ in range(5)]
        socket.ws.transport.abort()
    response_id = got[0]["response"]["id"]
    server.gate.open()
    async with server.socket(query=f"?response_id={response_id}&starting_after=4") as socket:
        got += await socket.rest()
        assert [frame["sequence_number"] for frame in got] == list(range(len(got)))
        text = got[-1]["response"]["output"][0]["content"][0]["text"]
        assert "".join(frame.get("delta", "") for frame in got) == text
        await socket.create("And then?")
        assert (await socket.rest())[0]["sequence_number"] == 0


async def test_a_response_that_ended_meanwhile_is_told_to_its_end(server):
    told = await server.respond("Hello")
    async with server.socket(query=f"?response_id={told['id']}", extended=True) as socket:
        resumed, *frames = await socket.rest()
    assert resumed == {
        "type": "chatpager.resumed", "response_id": told["id"], "recovered": True, "starting_after": -1,
        "status": "incomplete",
    }  # fmt: skip
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    assert frames[-1]["response"] == told
    last = frames[-1]["sequence_number"]
    path = f"/v1/responses/{told['id']}?stream=true&starting_after="
    assert (await server.get(f"{path}{last}")).body.count(b"event: ") == 1, "the end is told again"
    async with server.socket() as socket:
        for lane, after in (("left", 2), ("right", last)):
            await socket.send(type="response.resume", response_id=told["id"], starting_after=after, stream_id=lane)
            again = await socket.rest()
            assert again == [{**f, "stream_id": lane} for f in frames[min(after + 1, last) :]]
        for after in (3, 4):  # the second waits for the first
            await socket.send(type="response.resume", response_id=told["id"], starting_after=after)
        assert [*await socket.rest(), *await socket.rest()] == frames[4:] + frames[5:]
    assert not server.service.readers.alone
    for wrong in (last + 1, -2, 10**30):
        assert (await server.get(f"{path}{wrong}")).refusal == (400, "invalid_request", "starting_after")
        async with server.socket() as socket:
            await socket.send(type="response.resume", response_id=told["id"], starting_after=wrong)
            error = await socket.receive()
            assert (error["error"]["code"], error["error"]["param"]) == ("invalid_request", "starting_after")


async def test_several_watch_one_response_each_in_a_lane(server):
    server.gate.hold(after=3)
    async with server.socket() as one, server.socket() as other:
        await one.create("Hello", **LONG)
        created = await one.receive()
        for lane in ("left", "right"):
            await other.send(type="response.resume", response_id=created["response"]["id"], stream_id=lane)
        seen = [await other.receive() for _ in range(2)]
        server.gate.open()
        whole = [created, *await one.rest()]
        while len(seen) < 2 * len(whole):
            seen.append(await other.receive())
    for lane in ("left", "right"):
        mine = [{k: v for k, v in f.items() if k != "stream_id"} for f in seen if f["stream_id"] == lane]
        assert mine == whole


async def test_what_cannot_be_resumed_is_refused_and_the_socket_lives_on(serve):
    async with serve(hub={"replay_seconds": 0.0}) as server:
        told = await server.respond("Hello")
        async with server.socket(query=f"?response_id={told['id']}&starting_after=3", extended=True) as socket:
            resumed, error = await socket.rest()
            assert (resumed["recovered"], resumed["status"]) == (False, None)
            assert (error["status"], error["error"]["code"]) == (410, "response_events_expired")
            await socket.send(type="response.resume", response_id="resp_x")
            assert (await socket.rest())[-1]["error"]["code"] == "response_not_found"
            await socket.create("Hello")
            assert (await socket.rest())[-1]["type"] == "response.incomplete"


async def test_a_socket_with_a_place_that_is_none_is_not_opened(server):
    with pytest.raises(InvalidStatus) as refused:
        async with server.socket(query="?response_id=resp_x&starting_after=soon"):
            pass
    assert refused.value.response.status_code == 400


async def test_what_is_not_stored_has_one_reader(server):
    """It ends with that one, so nobody else may count on it."""
    server.gate.hold(after=3)
    async with server.socket() as one, server.socket() as other:
        await one.create("Hello", store=False, **LONG)
        created = await one.receive()
        await other.send(type="response.resume", response_id=created["response"]["id"])
        assert (await other.receive())["error"]["code"] == "response_not_found"
        server.gate.open()
        assert (await one.rest())[-1]["response"]["status"] == "incomplete"


async def test_the_prefill_that_is_over_is_not_told_again(serve):
    async with serve(step=16) as server:
        server.service.prefill_seconds = 0.0
        told = await server.respond("word " * 40)
        async with server.socket(query=f"?response_id={told['id']}&starting_after=1", extended=True) as socket:
            kinds = [frame["type"] for frame in await socket.rest()]
        assert "chatpager.prefill" not in kinds and kinds[0] == "chatpager.resumed"


async def test_who_resumes_and_leaves_ends_nothing(server):
    server.gate.hold(after=3)
    async with server.socket() as one:
        await one.create("Hello", **LONG)
        created = await one.receive()
        async with server.socket() as other:
            await other.send(type="response.resume", response_id=created["response"]["id"])
            await other.receive()
        server.gate.open()
        assert (await one.rest())[-1]["response"]["status"] == "incomplete"


async def test_lanes_of_one_socket_share_a_past(server):
    """A lane that forks from another's response computes nothing of it again."""
    async with server.socket() as socket:
        await socket.create("word " * 40, stream_id="left")
        first = (await socket.rest())[-1]
        parent = first["response"]
        for lane in ("left", "right"):
            await socket.create(f"And {lane}?", previous_response_id=parent["id"], stream_id=lane)
        ends = {}
        while len(ends) < 2:
            last = (await socket.rest())[-1]
            ends[last["stream_id"]] = last["response"]
    held = parent["usage"]["total_tokens"] - 1
    for lane, response in ends.items():
        assert response["previous_response_id"] == parent["id"], lane
        assert response["usage"]["input_tokens_details"]["cached_tokens"] >= held // 8 * 8


async def test_frames_that_were_made_for_those_who_come_back_have_a_room_of_their_own(server):
    """What was made first gives way, and what is not kept any more leaves it."""
    turns = [server.hub.turns.told("default", (await server.respond("Hello", **LONG))["id"]) for _ in range(3)]
    ample = Replays()
    sizes = [sum(FRAME_BYTES + len(frame) for frame in ample.of(turn)) for turn in turns]
    replays = Replays(size=sum(sizes) - 1)
    made = [replays.of(turn) for turn in turns]
    assert [replays.of(turn) is frames for turn, frames in zip(turns[1:], made[1:], strict=True)] == [True, True]
    again = replays.of(turns[0])
    assert again is not made[0] and again == made[0]
    assert replays.of(turns[1]) is not made[1], "it gave way to that"
    narrow = Replays(size=1)
    assert narrow.of(turns[0]) == made[0] and not narrow._frames and narrow._room == 1
    for turn in turns:
        server.hub._recent.forget(turn.id)
    del turn, turns
    gc.collect()
    assert not replays._frames and replays._room == sum(sizes) - 1
