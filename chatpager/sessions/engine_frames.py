"""What crosses between a server and an engine in a process of its own: msgpack behind its length, one frame a step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, get_type_hints

import msgspec

from chatpager import errors
from chatpager.engine.facts import EngineFacts
from chatpager.engine.messages import CloseSession, CloseTenant, Command
from chatpager.engine.questions import AnyQuestion, Question
from chatpager.engine.servant import Stepped
from chatpager.errors import ChatpagerError, EngineError
from chatpager.sessions.mistakes import told_of

LENGTH = 4
"""Bytes that say how long a frame is."""
MARKS = 16
"""Bytes of the memory in which an engine marks how far it is (``engine_child.Marks``)."""


class Asking(msgspec.Struct, frozen=True, tag="asking"):
    number: int
    question: AnyQuestion


class Erasing(msgspec.Struct, frozen=True, tag="erasing"):
    """A command that is confirmed under its number, once it is carried out: until then the next engine needs it."""

    number: int
    command: CloseSession | CloseTenant


class End(msgspec.Struct, frozen=True, tag="end"):
    """After the step that is running."""


class Fault(msgspec.Struct, frozen=True):
    """An exception: of one of our own ``facts`` are its attributes, of any other what may be told of it."""

    kind: str
    message: str
    facts: dict[str, str | int | float | bool | None]


class Started(msgspec.Struct, frozen=True, tag="started"):
    facts: EngineFacts


class NotStarted(msgspec.Struct, frozen=True, tag="not_started"):
    fault: Fault


class Died(msgspec.Struct, frozen=True, tag="died"):
    """Of a mistake of our own, as ``told_of`` tells it. The process ends by itself."""

    told: dict[str, str]


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    number: int
    answer: msgspec.Raw


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    number: int
    fault: Fault


Down = Command | Asking | Erasing | End
Up = Started | NotStarted | Died | Stepped | Reply | Refusal
_encoder = msgspec.msgpack.Encoder()
_down: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)
_up: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)


def packed(message: Any) -> bytes:
    """One frame."""
    return framed(_encoder.encode(message))


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH, "little") + body


def down(body: bytes) -> Down:
    return _down.decode(body)


def up(body: bytes) -> Up:
    return _up.decode(body)


def reply(number: int, answer: Any) -> Reply:
    return Reply(number, msgspec.Raw(_encoder.encode(answer)))


def answer_of(question: Question[Any], answer: msgspec.Raw) -> Any:
    return _answers(type(question)).decode(answer)


@cache
def _answers(kind: type[Question[Any]]) -> msgspec.msgpack.Decoder[Any]:
    hints = get_type_hints(kind.answer, localns={"Engine": object})
    return msgspec.msgpack.Decoder(hints["return"])


def fault_of(error: Exception) -> Fault:
    if not isinstance(error, ChatpagerError):
        return Fault(type(error).__name__, "", dict(told_of(error)))
    plain = (str, int, float, bool, type(None))
    facts = {name: value if isinstance(value, plain) else repr(value) for name, value in vars(error).items()}
    return Fault(type(error).__name__, str(error), facts)


def error_of(fault: Fault) -> ChatpagerError:
    """What was raised, where it is one of our own; of a mistake an EngineError that says where it was made."""
    kind = getattr(errors, fault.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, ChatpagerError)):
        return EngineError(f"a mistake in the engine: {fault.kind} at {fault.facts.get('at')}")
    error = kind.__new__(kind)
    Exception.__init__(error, fault.message)
    vars(error).update(fault.facts)
    return error


class Unframed:
    """Bytes as they come, as frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies of the frames that are whole now."""
        self._bytes += data
        at = 0
        while len(self._bytes) - at >= LENGTH:
            end = at + LENGTH + int.from_bytes(self._bytes[at : at + LENGTH], "little")
            if end > len(self._bytes):
                break
            yield bytes(self._bytes[at + LENGTH : end])
            at = end
        del self._bytes[:at]
