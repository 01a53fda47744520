"""JSON in, a struct out, or a typed error and nothing changed.

Three kinds of fields: those with an effect (the structs); those that are accepted because they ask for nothing here
(``HARMLESS``); those whose feature is not built, which are refused when they ask for it (``UNBUILT``). Any other field
is passed over and named in the answer's ``chatpager.warnings``.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from itertools import islice
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from chatpager.errors import InvalidJSON, InvalidRequest, shown
from chatpager.server.input_items import Json
from chatpager.server.json_costs import check_costs
from chatpager.server.nested import unknown_inside

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")
MAX_FIELDS = 256
"""Of a request. What is passed over is looked at and sorted, while nobody else is served."""
BIG = 1 << 16
"""Bytes or characters that are read beside the event loop."""
MUCH = 512
"""Fields and members of lists: some 2 ms of looking at them."""
MAX_KEY = 255
MAX_PLACE = 1 << 53
MAX_WARNINGS = 16
USUAL_TIERS = (None, "auto", "default", "standard_only")
"""Of OpenAI's and Anthropic's service tiers, those that ask for nothing special."""

HARMLESS: dict[str, tuple[type, ...]] = {
    "prompt_cache_key": (str,), "safety_identifier": (str,),
    "reasoning": (dict,), "reasoning_effort": (str,), "service_tier": (str,), "type": (str,), "user": (str,),
}  # fmt: skip
"""Name -> the types it may have besides null."""

BY_WIRE = (
    "its name differs by wire: text.format on /v1/responses, response_format on /v1/chat/completions, "
    "output_config.format on /v1/messages; /v1/completions has only chatpager.grammar"
)
GUIDED = "of vLLM; send it as response_format or text.format (a schema), or as chatpager.grammar (regex, lark, schema)"
VLLMS: dict[str, tuple[type, ...]] = {"json": (dict, str), "regex": (str,), "choice": (list,), "grammar": (str,)}
UNBUILT: dict[str, tuple[tuple[type, ...], Callable[[Any], bool], str]] = {
    "functions": ((list,), bool, "not built; send them as tools"),
    "background": ((bool,), bool, "only a response runs in the background: POST it to /v1/responses"),
    "stream_id": ((str,), bool, "lanes are a WebSocket's; over HTTP send another request"),
    "n": ((int,), lambda v: v not in (None, 1), "a response is one; several choices are had on /v1/chat/completions"),
    "logprobs": ((bool,), bool, 'a response has them with include: ["message.output_text.logprobs"]'),
    "include": (
        (list,),
        lambda v: "message.output_text.logprobs" in (v or []),
        "logprobs: of all but a response",
    ),
    "prompt": ((dict,), bool, "stored prompts are not built; send the text"),
    "truncation": ((str,), lambda v: v not in (None, "disabled"), 'only "disabled": nothing is cut off silently'),
    "text": ((dict,), lambda v: _format(v) != "text", BY_WIRE),
    "response_format": ((dict,), lambda v: _format({"format": v}) != "text", BY_WIRE),
    "audio": ((dict,), bool, "text only"),
    "modalities": ((list,), lambda v: v not in (None, ["text"]), "text only"),
    "context_management": ((list, dict), bool, "a conversation is compacted by POST /v1/conversations/{id}/compact"),
    "moderation": ((dict,), bool, "moderation is not built"),
    **{f"guided_{kind}": (types, bool, GUIDED) for kind, types in VLLMS.items()},
    "structured_outputs": ((dict,), bool, GUIDED),
    "cache_salt": ((str,), bool, "salts come from the credentials, not from the request"),
}
"""Name -> the types it may have besides null, whether a value asks for the feature, and why it is refused then."""

_CHOSEN = re.compile("^Invalid enum value '(.*)'", re.DOTALL)
JSON_NAMES = {dict: "an object", list: "an array", str: "text", int: "a whole number", bool: "true or false"}


def _format(text: Json | None) -> Any:
    """The type of the answer that a ``text`` object asks for."""
    wanted = (text or {}).get("format")
    return wanted.get("type") if isinstance(wanted, dict) else "text" if wanted is None else wanted


def decode(data: str | bytes) -> Json:
    """A JSON object. Raises InvalidJSON, and InvalidRequest of a number that cannot be read and of too much of
    anything."""
    check_costs(data)
    try:
        value = msgspec.json.decode(data)
    except msgspec.ValidationError as error:  # at a number; behind it anything may follow
        try:
            name = _unread(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as worse:
            raise InvalidJSON(f"this is not JSON: {worse}") from worse
        raise InvalidRequest("a number is out of range", param=name) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        if len(data) <= BIG and _has_half_a_pair(data):
            raise InvalidJSON("a text holds half of a surrogate pair (\\ud800 to \\udfff): no character") from error
        raise InvalidJSON(f"this is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidJSON("a request is a JSON object")
    if len(value) > MAX_FIELDS:
        raise InvalidRequest(f"a request has at most {MAX_FIELDS} fields")
    return value


async def decoded(data: str | bytes) -> Json:
    """``decode``; while what is big is read, others have their turn."""
    return await asyncio.to_thread(decode, data) if len(data) > BIG else decode(data)


async def made_of(raw: Json, make: Callable[..., T], *given: Any) -> T:
    """``make(raw, *given)``; while much is looked at, others have their turn."""
    return await asyncio.to_thread(make, raw, *given) if has_much(raw) else make(raw, *given)


def has_much(raw: Json) -> bool:
    """Whether it has more than ``MUCH`` things in it, whatever they are and however deep; no more of them are looked
    at."""
    found, left = 0, list[Any]((raw,))
    while left and found <= MUCH:
        one = left.pop()
        found += len(one)
        inside = one.values() if isinstance(one, dict) else one
        left += [thing for thing in islice(inside, MUCH) if isinstance(thing, dict | list)]
    return found > MUCH


def _unread(data: str | bytes) -> str | None:
    """The field that msgspec cannot read although it is JSON. Raises what msgspec does of what is not."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return None
    for name, raw in fields.items():
        try:
            msgspec.json.decode(raw)
        except msgspec.ValidationError:
            return name
    return None


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
    """``raw`` as the struct, and what of it comes to nothing, in words.

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
        param, problem = problem_of(error, kind)
        raise InvalidRequest(f"{param or 'request'}: {problem}", param=param) from error
    unknown = [*sorted(set(raw) - {*fields, *HARMLESS, *UNBUILT}), *sorted(unknown_inside(raw, fields))]
    told = [f"unknown field {shown(name)} was passed over" for name in unknown[:MAX_WARNINGS]]
    if raw.get("service_tier") not in USUAL_TIERS:
        told.append("service_tier: every request is served alike; chatpager.priority says which come first")
    return value, told


def known_fields(body: Json, *names: str) -> Json:
    """``body``, of which few fields change much: one that is misspelt is refused. Raises InvalidRequest."""
    if unknown := body.keys() - set(names):
        first = min(unknown)
        raise InvalidRequest(f"{shown(first)} is unknown here; known: {', '.join(names)}", param=first)
    return body


def problem_of(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> tuple[str | None, str]:
    """The field's name, and what is wrong with it: with the values that there are, where it takes only some."""
    param, problem = _place(str(error))
    problem = _CHOSEN.sub(lambda found: f"Invalid enum value {shown(found[1])}", problem)
    known = _choices(kind, param.split(".")) if param and problem.startswith("Invalid enum value") else []
    return param, f"{problem}; one of {', '.join(map(json.dumps, known))}" if known else problem


def _choices(hint: Any, names: Sequence[str]) -> list[Any]:
    """The values of a field that takes only some, by the names that lead to it from a struct."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    members = tuple(get_args(member)[0] if get_origin(member) is list else member for member in members)
    if not names:
        return [value for member in members if get_origin(member) is Literal for value in get_args(member)]
    structs = [member for member in members if isinstance(member, type) and issubclass(member, msgspec.Struct)]
    below = get_type_hints(structs[0]).get(names[0].partition("[")[0]) if structs else None
    return _choices(below, names[1:]) if below is not None else []


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


def checked_place(value: object) -> int:
    """``starting_after``: an event's number, or -1 before the first. Raises InvalidRequest."""
    if type(value) is not int or not -1 <= value < MAX_PLACE:
        raise InvalidRequest("starting_after is an event's number, or -1 for all of them", param="starting_after")
    return value
