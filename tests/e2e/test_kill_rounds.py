"""Servers on one data folder, each killed while it answers: nothing acknowledged is lost, no seen token is
unsaid, and every session goes on."""

import collections
import json
import os
import random
import signal
from dataclasses import dataclass, field

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from chatpager.bench.faults import KILL_PLACES, MID_STREAM, kill_spec
from tests.gate import DEADLINE
from tests.processes import serving

ROUNDS = int(os.environ.get("CHATPAGER_KILL_ROUNDS", "30"))
SEED = int(os.environ.get("CHATPAGER_KILL_SEED", "7"))
ROUNDS_OF_A_SESSION = 5
QUESTIONS = ["What is chatpager?", "My name is Ada.", "你好", "What is a KV block?", "What is my name?"]


@dataclass
class Turn:
    """One turn as its client saw it."""

    question: str
    id: str | None = None
    """Told by ``response.created``: the turn is acknowledged."""
    seen: str = ""
    end: dict | None = None
    """The response object of the terminal event."""


@dataclass
class Talk:
    """A session, and every turn that was begun in it."""

    id: str
    turns: list[Turn] = field(default_factory=list)


def ask(socket, talk, question, on_delta):
    """One turn, as far as it gets."""
    turn = Turn(question)
    talk.turns.append(turn)
    wanted = {"conversation": talk.id, "input": question, "max_output_tokens": 24, "temperature": 0}
    socket.send(json.dumps({"type": "response.create", **wanted}))
    while turn.end is None:
        event = json.loads(socket.recv(timeout=DEADLINE))
        match event["type"]:
            case "response.created":
                turn.id = event["response"]["id"]
            case "response.output_text.delta":
                turn.seen += event["delta"]
                on_delta()
            case "response.completed" | "response.incomplete":
                turn.end = event["response"]
            case "response.failed" | "error":
                raise AssertionError(event)


def talk_until_killed(server, talk, rng, deltas_left):
    """Turns without end; ``deltas_left`` None leaves the killing to the server's failpoint."""

    def on_delta():
        nonlocal deltas_left
        if deltas_left is not None:
            deltas_left -= 1
            if deltas_left == 0:
                server.process.send(signal.SIGKILL)

    try:
        with connect(server.url.replace("http", "ws") + "/v1/responses", compression=None) as socket:
            while True:
                ask(socket, talk, f"{rng.choice(QUESTIONS)} ({len(talk.turns)})", on_delta)
    except ConnectionClosed:
        pass
    assert server.process.wait() == -signal.SIGKILL


def check(server, talk):
    """Walk the stored session beside what its client saw; returns how the last turn stands."""
    items = server.get(f"/v1/conversations/{talk.id}/items?order=asc&limit=100")["data"]
    said = collections.deque((i["role"], i["content"][0]["text"], i.get("chatpager")) for i in items)
    state = None
    for turn in talk.turns:
        if not said or said[0][:2] != ("user", turn.question):
            assert turn.id is None, f"acknowledged, and lost: {turn}"
            state = "not there"
            continue
        said.popleft()
        role, text, ours = said.popleft() if said and said[0][0] == "assistant" else (None, "", {"state": "no answer"})
        state = ours["state"]
        assert text.startswith(turn.seen), f"unsaid: {text!r} of {turn}"
        if turn.end:
            assert (text, state) == (turn.seen, turn.end["chatpager"]["state"])
        if turn.id:
            stored = server.get(f"/v1/responses/{turn.id}")
            assert stored == turn.end or not turn.end
            assert role is None or ours["response_id"] == turn.id
            assert stored["chatpager"]["state"] == ("interrupted" if role is None else state)
            assert stored["status"] == ("failed" if state in ("interrupted", "no answer") else stored["status"])
    assert not said, f"the session holds what nobody said: {said}"
    return state


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.slow])])
def flags(request):
    """Of a server on this database."""
    return () if request.param == "sqlite" else ("--database-url", request.getfixturevalue("postgres_url"))


def test_killed_servers_lose_nothing_anyone_has_seen(fork_server, tmp_path, flags):
    rng, talk, ends = random.Random(SEED), None, collections.Counter()
    places = [*KILL_PLACES, MID_STREAM]
    for n in range(ROUNDS + 1):
        place = places[n % len(places)]
        spec = kill_spec(place, rng)
        env = {"CHATPAGER_TEST_MODE": "1", "CHATPAGER_FAILPOINTS": spec if n < ROUNDS else ""}
        with serving(fork_server, tmp_path, *flags, **env) as server:
            if talk:
                last = talk.turns[-1]
                ends[check(server, talk), bool(last.id), bool(last.seen)] += 1
            if n == ROUNDS:
                break
            if n % ROUNDS_OF_A_SESSION == 0:
                talk = Talk(server.post("/v1/conversations")["id"])
            talk_until_killed(server, talk, rng, rng.randint(1, 40) if place == MID_STREAM else None)
    print("\n(state, acknowledged, seen in part) of the turn that was killed:", dict(ends))
    assert sum(ends.values()) == ROUNDS
    assert ends["interrupted", True, True] > ROUNDS / 3, ends
