"""A long prompt is computed, and the server hears and answers everybody meanwhile."""

import json
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.chat_models import save_model, save_tokenizer
from tests.processes import serving

LENGTH = 65_536
WORDS = 6400
"""Some 50,000 tokens of the tiny model's."""
TRIES = "abc"


@pytest.fixture(scope="module")
def long_server(tmp_path_factory, fork_server):
    """A tiny random model with a long window."""
    model = tmp_path_factory.mktemp("long-model")
    save_tokenizer(save_model(model, max_positions=LENGTH))
    flags = ("--max-model-len", str(LENGTH), "--swap-space", "0", "--disk-space", "0")
    with serving(fork_server, tmp_path_factory.mktemp("long"), *flags, command=("serve", str(model))) as running:
        yield running


async def test_a_socket_that_must_be_answered_every_second_lives_through_it(long_server):
    """What holds the server up does so each time; a machine that is busy does not."""
    why = []
    for name in TRIES:
        try:
            return await lives_through(long_server, " ".join(f"wor{name}{number}" for number in range(WORDS)))
        except (AssertionError, ConnectionClosed) as error:
            why.append(str(error))
    pytest.fail("\n".join(why))


async def lives_through(long_server, words):
    before = lag(long_server)
    address = long_server.url.replace("http", "ws") + "/v1/responses"
    begun = time.monotonic()
    async with connect(address, ping_interval=1, ping_timeout=1, subprotocols=["chatpager.v1"]) as socket:
        await socket.send(json.dumps({"type": "response.create", "input": words, "max_output_tokens": 1}))
        frames = []
        async for frame in socket:
            frames.append(json.loads(frame))
            if frames[-1]["type"].startswith(("response.completed", "response.incomplete", "error")):
                break
    seconds = time.monotonic() - begun
    kinds = [frame["type"] for frame in frames]
    assert kinds[0] == "response.created" and kinds[-1].startswith("response."), frames[-1]
    assert frames[-1]["response"]["usage"]["input_tokens"] > LENGTH // 2
    assert 1 < kinds.count("chatpager.prefill") <= 4 * seconds + 1
    assert seconds > 3, f"too short to need a ping: {seconds:.1f} s"
    late, all_of_them = [now - then for now, then in zip(lag(long_server), before, strict=True)]
    assert late <= all_of_them / 100, f"{late:.0f} of {all_of_them:.0f} times the loop came 0.2 s late"


def lag(server):
    """How often the event loop came more than 0.2 s late, and how often it was looked at."""
    with urllib.request.urlopen(server.url + "/metrics") as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    samples = families["chatpager_event_loop_lag_seconds"].samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    return buckets["+Inf"] - buckets["0.2"], buckets["+Inf"]
