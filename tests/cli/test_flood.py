"""The flood against a real server whose device has little room."""

import json
import re

import pytest

from chatpager.bench.flood import _faults
from tests.processes import serving

SMALL = ("bench", "flood", "--tokens", 300, "--factor", 1.5)


@pytest.fixture
def flooded(fork_server, tmp_path, chatpager):
    """The server, and what the flood printed and wrote."""

    def run(*flags):
        with serving(fork_server, tmp_path, "--num-kv-blocks", "320", *flags) as server:
            out = tmp_path / "flood.json"
            done = chatpager(*SMALL, "--url", server.url, "--out", out)
            left = chatpager("sessions", "list", "--url", server.url, "--json")
            return done, json.loads(out.read_text()), json.loads(left.out)

    return run


def test_what_was_pinned_is_found_on_the_device_and_the_rest_is_accounted_for(flooded):
    done, found, left = flooded("--swap-space", "0", "--disk-space", "0")
    assert done.code == 0, done.err
    assert found["flooded_tokens"] >= 1.5 * found["device_tokens"]
    turns = {turn["conversation"]: turn["receipt"] for turn in found["turns"][:4]}
    assert turns["pinned"]["miss_reason"] is None
    assert turns["pinned"]["device_tokens"] == turns["pinned"]["attainable_tokens"] > 300
    assert turns["let go"]["miss_reason"] == "evicted"
    assert turns["let go"]["evicted"]["by"].startswith("conv_")
    assert turns["its fork at turn 2"]["device_tokens"] > 300  # the return of its origin brought it back
    assert re.search(r"^ let go .* evicted \d+ s ago as \w+ by conv_\w+", done.out, re.M)
    assert left == []


def test_with_host_memory_nothing_is_computed_twice(flooded):
    done, found, _ = flooded("--swap-space", "1", "--disk-space", "0")
    assert done.code == 0, done.err
    let_go = next(turn["receipt"] for turn in found["turns"] if turn["conversation"] == "let go")
    assert let_go["miss_reason"] is None
    assert let_go["host_tokens"] > 0


def test_a_receipt_that_does_not_add_up_and_a_pin_that_lost_are_told():
    receipt = {"prompt_tokens": 40, "device_tokens": 16, "host_tokens": 16, "disk_tokens": 0, "computed_tokens": 7}
    assert _faults({"conversation": "pinned", "receipt": receipt}, 32) == [
        "the receipt of the conversation pinned does not add up",
        "the pinned conversation lost 16 tokens from the device",
    ]
    assert _faults({"conversation": "left", "receipt": {**receipt, "computed_tokens": 8}}, 32) == []


@pytest.mark.parametrize("wrong", [("--tokens", 0), ("--factor", 0)])
def test_a_flood_of_nothing_is_refused(chatpager, wrong):
    assert "must be above 0" in chatpager("bench", "flood", *wrong, "--url", "http://127.0.0.1:9").err


def test_a_server_that_is_not_there_is_named(chatpager):
    result = chatpager(*SMALL, "--url", "http://127.0.0.1:9")
    assert result.code == 1
    assert "no server at http://127.0.0.1:9" in result.err
