"""JSON in, a struct out, or a typed error and nothing changed.

Three kinds of fields: those with an effect (the structs); those that are accepted because they ask for nothing here
(``HARMLESS``); those whose feature is not built, which are refused when they ask for it (``UNBUILT``). Any other field
is passed over and named in the answer's ``chatpager.warnings``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from chatpager.errors import InvalidJSON, InvalidRequest
from chatpager.server.input_items import Json

S = TypeVar("S", bound=msgspec.Struct)
MAX_KEY = 255

HARMLESS: dict[str, tuple[type, ...]] = {
    "max_tool_calls": (int,), "prompt_cache_key": (str,), "safety_identifier": (str,),
    "service_tier": (str,), "stream_options": (dict,), "type": (str,), "user": (str,),
}  # fmt: skip
"""Name -> the types it may have besides null."""

NO_LOGPROBS = "logprobs are not built yet on this wire"
NO_STRUCTURE, NO_REASONING = "structured output is not built yet", "no reasoning models yet"
UNBUILT: dict[str, tuple[tuple[type, ...], Callable[[Any], bool], str]] = {
    "functions": ((list,), bool, "not built; send them as tools"),
    "background": ((bool,), bool, "not built yet; a stored response goes on without its reader anyway"),
    "stream_id": ((str,), bool, "lanes are a WebSocket's; over HTTP send another request"),
    "n": ((int,), lambda v: v not in (None, 1), "a response is one; several choices are had on /v1/chat/completions"),
    "logprobs": ((bool,), bool, NO_LOGPROBS),
    "top_logprobs": ((int,), bool, NO_LOGPROBS),
    # The other values of OpenAI's name parts of answers that there are none of here.
    "include": ((list,), lambda v: "message.output_text.logprobs" in (v or []), NO_LOGPROBS),
    "prompt": ((dict,), bool, "stored prompts are not built; send the text"),
    "truncation": ((str,), lambda v: v not in (None, "disabled"), 'only "disabled": nothing is cut off silently'),
    "text": ((dict,), lambda v: _format(v) != "text", NO_STRUCTURE),
    "response_format": ((dict,), lambda v: _format({"format": v}) != "text", NO_STRUCTURE),
    "audio": ((dict,), bool, "text only"),
    "modalities": ((list,), lambda v: v not in (None, ["text"]), "text only"),
    "context_management": ((list, dict), bool, "compaction is not built yet"),
    "moderation": ((dict,), bool, "moderation is not built"),
    "cache_salt": ((str,), bool, "salts come from the credentials, not from the request"),
    "reasoning": ((dict,), lambda v: any(x is not None for x in (v or {}).values()), NO_REASONING),
    "reasoning_effort": ((str,), bool, NO_REASONING),
}
"""Name -> the types it may have besides null, whether a value asks for the feature, and why it is refused then."""

JSON_NAMES = {dict: "an object", list: "an array", str: "text", int: "a whole number", bool: "true or false"}


def _format(text: Json | None) -> Any:
    """The type of the answer that a ``text`` object asks for."""
    wanted = (text or {}).get("format")
    return wanted.get("type", "text") if isinstance(wanted, dict) else "text" if wanted is None else wanted


def decode(data: str | bytes) -> Json:
    """A JSON object. Raises InvalidJSON."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        if _has_half_a_pair(data):
            raise InvalidJSON("a text holds half of a surrogate pair (\\ud800 to \\udfff): no character") from error
        raise InvalidJSON(f"this is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidJSON("a request is a JSON object")
    return value


def _has_half_a_pair(data: str | bytes) -> bool:
    """Whether that is what msgspec refuses: it says so of some halves, and of the others that the input is cut off."""
    try:
        json.dumps(json.loads(data), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def read(raw: Json, kind: type[S]) -> tuple[S, list[str]]:
    """``raw`` as the struct, and the names of its fields that nothing is known of.

    Raises:
        InvalidRequest: with the field's name as ``param``.
    """
    fields = kind.__struct_fields__
    for name in sorted({*HARMLESS, *UNBUILT}.intersection(raw).difference(fields)):
        types, asks, message = UNBUILT.get(name) or (HARMLESS[name], lambda v: False, "")
        if raw[name] is not None and type(raw[name]) not in types:
            raise InvalidRequest(f"{name}: must be {' or '.join(JSON_NAMES[t] for t in types)}", param=name)
        if asks(raw[name]):
            raise InvalidRequest(f"{name}: {message}", param=name)
    try:
        value = msgspec.convert(raw, kind, str_keys=True)
    except msgspec.ValidationError as error:
        param, problem = _place(str(error))
        raise InvalidRequest(f"{param or 'request'}: {problem}", param=param) from error
    return value, sorted(set(raw) - {*fields, *HARMLESS, *UNBUILT})


def _place(message: str) -> tuple[str | None, str]:
    """msgspec's message as the field's name and what is wrong with it."""
    if missing := _MISSING.fullmatch(message):
        return missing[1], "this field is required"
    problem, _, path = message.partition(" - at ")
    return path.rpartition("`$")[2].rstrip("`").lstrip(".") or None, problem


_MISSING = re.compile(r"Object missing required field `(\w+)`")


def checked_key(value: object, param: str) -> str | None:
    """A client's own name for a request. Raises InvalidRequest."""
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_KEY or not value.isprintable():
        raise InvalidRequest(f"{param} is a text of 1 to {MAX_KEY} printable characters", param=param)
    return value
