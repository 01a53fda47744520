"""What transcripts prove: every event once, under one number, the same to all; every text as it is stored.

Responses are told on their sockets one after the other: ``response.created`` begins one, and so does asking to resume.
What a client was told is a promise; the store is asked afterwards whether it was kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chatpager.bench.transcript import Line

DELTA = "response.output_text.delta"
ENDS = {"response.completed", "response.incomplete", "response.failed"}
OPEN = {"queued", "in_progress"}


@dataclass
class Heard:
    """One response, as all its readers heard it together."""

    input: str | None = None
    events: dict[int, int] = field(default_factory=dict)
    """Hash of what came, by number."""
    deltas: dict[int, str] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    """The response of its last event."""

    @property
    def text(self) -> str:
        """Up to the first event that nobody heard."""
        whole = 0
        while whole in self.events:
            whole += 1
        return "".join(self.deltas[number] for number in sorted(self.deltas) if number < whole)


@dataclass
class _Reader:
    response: str | None = None
    next: int = 0
    asked: str | None = None
    """What it sent last."""


@dataclass
class Account:
    """``faults`` are what must not be; the rest counts."""

    responses: dict[str, Heard] = field(default_factory=dict)
    events: int = 0
    acknowledged: int = 0
    """Turns that a client was told of."""
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def ended(self) -> int:
        return sum(heard.end is not None for heard in self.responses.values())


def account(transcript: Iterable[Line]) -> Account:
    """Read a whole transcript."""
    found, readers = Account(), dict[int, _Reader]()
    for line in transcript:
        reader = readers.setdefault(line.socket, _Reader())
        if line.sent is not None:
            _begin(reader, line.sent)
        elif line.event is not None:
            _hear(found, reader, line.event, line.socket)
        else:
            del readers[line.socket]
    return found


def _begin(reader: _Reader, frame: Mapping[str, Any]) -> None:
    if frame["type"] == "response.resume":
        reader.response, reader.next = frame["response_id"], frame["starting_after"] + 1
    else:
        reader.response, reader.asked = None, frame.get("input")


def _hear(found: Account, reader: _Reader, event: Mapping[str, Any], socket: int) -> None:
    kind, number = event["type"], event.get("sequence_number")
    if kind == "error" or number is None:
        found.refused += kind == "error"
        return
    found.events += 1
    if kind == "response.created" and number == 0:
        reader.response, reader.next = event["response"]["id"], 0
        found.acknowledged += reader.response not in found.responses
    if reader.response is None:
        found.faults.append(f"socket {socket}: event {number} of no response")
        return
    heard = found.responses.setdefault(reader.response, Heard())
    if number == 0:
        heard.input = reader.asked
    if number != reader.next:
        found.faults.append(f"socket {socket}: event {number} of {reader.response} where {reader.next} was due")
    reader.next = number + 1
    known = heard.events.setdefault(number, digest := hash(repr(event)))
    if known != digest:
        found.faults.append(f"event {number} of {reader.response} was told in two ways")
    if kind == DELTA:
        heard.deltas[number] = event["delta"]
    elif kind in ENDS:
        heard.end = event["response"]
        reader.response = None


def against_the_store(name: str, heard: Heard, stored: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with what is stored of a response, None where nothing is: it has what was heard of its text, and of
    one whose end was heard it is that end, unless that said itself that it could not be stored."""
    if stored is None:
        return [f"{name} was acknowledged and is not there"]
    text = text_of(stored)
    faults = []
    if not text.startswith(heard.text):
        faults.append(f"{name}: text that was told is not what is stored")
    if heard.end is not None and stored != heard.end and not _was_not_stored(heard.end):
        faults.append(f"{name}: another end is stored than was told")
    if heard.end is not None and 0 in heard.events and not _ends(text_of(heard.end), heard):
        faults.append(f"{name}: the end has another text than its deltas")
    return faults


def unended(name: str, stored: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with a response on which nobody works any more and which has no end."""
    return [f"{name} is {stored['status']} for ever"] if stored and stored["status"] in OPEN else []


def _ends(text: str, heard: Heard) -> bool:
    """Of one that failed the end may say more than was shown before: what the journal did not take in time."""
    assert heard.end is not None
    return text.startswith(heard.text) if heard.end["status"] == "failed" else text == heard.text


def _was_not_stored(end: Mapping[str, Any]) -> bool:
    return bool(end.get("error")) and end["error"]["code"] in ("storage_unavailable", "turn_taken")


def text_of(response: Mapping[str, Any]) -> str:
    """The text of a response object's message."""
    items = (item for item in response["output"] if item["type"] == "message")
    return "".join(part["text"] for item in items for part in item["content"])
