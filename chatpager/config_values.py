"""What a setting is called, wherever it comes from, and what a value of it may be."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, replace
from types import UnionType
from typing import Any, get_args, get_type_hints

from chatpager.config import EngineConfig, ServerConfig, StoreConfig
from chatpager.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """One setting as the command line, ``config show`` and the documentation see it."""

    section: str
    name: str
    type: type
    optional: bool
    default: Any
    help: str
    check: Callable[[Any], str | None] | None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        return "CHATPAGER_" + self.name.upper()


SECTIONS: dict[str, type] = {"engine": EngineConfig, "server": ServerConfig, "store": StoreConfig}


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the tree."""
    for section, cls in SECTIONS.items():
        hints = get_type_hints(cls)
        for f in fields(cls):
            yield _describe(section, f, hints[f.name])


def _describe(section: str, f: Field[Any], hint: Any) -> Setting:
    optional = isinstance(hint, UnionType)
    kind = next(a for a in get_args(hint) if a is not type(None)) if optional else hint
    return Setting(section, f.name, kind, optional, f.default, f.metadata["help"], f.metadata["check"])


def convert(s: Setting, value: Any, source: str) -> Any:
    """``value`` as the setting's type, checked; strings come from flags and the environment. Where a
    setting may be absent an empty text means None, and so does "none" for a number; a text may be called none."""
    if s.optional and value in ((None, "") if s.type is str else (None, "", "none")):
        return None
    shown = None if s.name == "api_key" else value
    try:
        if s.type is bool:
            converted: Any = _to_bool(value)
        elif not isinstance(value, _SPELLINGS[s.type]) or isinstance(value, bool):
            raise ValueError
        else:
            converted = s.type(value)
    except (ValueError, OverflowError):
        raise ConfigError(s.name, f"must be {_kind(s.type)}", value=shown, source=source) from None
    if s.type is str and "\0" in converted:
        problem: str | None = "must not contain a null character"
    else:
        problem = s.check(converted) if s.check else None
    if problem:
        raise ConfigError(s.name, problem, value=shown, source=source)
    return converted


_SPELLINGS: dict[type, tuple[type, ...]] = {int: (int, str), float: (int, float, str), str: (str,)}
"""What a value may be before it is converted: the file has types, flags and variables have text."""


def _kind(kind: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off", ""):
        return False
    raise ValueError


def no_such(name: str, known: Any, what: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"no such {what}" + (f"; did you mean {close[0]!r}?" if close else "")


def check_engine(base: EngineConfig, given: Mapping[str, Any]) -> EngineConfig:
    """``base`` with settings given as arguments in Python, checked as from any other source.

    Raises:
        ConfigError: an unknown name, or a wrong value.
    """
    known = {s.name: s for s in settings() if s.section == "engine"}
    for name in given:
        if name not in known:
            raise ConfigError(name, no_such(name, known, "setting"), source="argument")
    values = {name: convert(known[name], value, "argument") for name, value in given.items()}
    if values.get("engine") == "fake":
        raise ConfigError("engine", "fake is the server's alone", value="fake", source="argument")
    return replace(base, **values)
