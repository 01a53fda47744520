"""Where settings come from: flag, ``CHATPAGER_*`` variable, ``chatpager.toml``, default, the first that has a word."""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chatpager.config import Config, EngineConfig, ServerConfig, StoreConfig, header_text
from chatpager.config_values import SECTIONS, convert, no_such, settings
from chatpager.errors import ConfigError

OTHER_VARIABLES = {"config", "url", "failpoints"}


def config_file(explicit: str | None = None, env: Mapping[str, str] = os.environ) -> Path | None:
    """The file settings are read from: ``--config`` or ``CHATPAGER_CONFIG``, the working folder, XDG."""
    named = explicit or env.get("CHATPAGER_CONFIG")
    if named:
        path = Path(os.path.expanduser(named))
        if not os.path.isfile(path):  # unlike Path's, it raises nothing
            source = "--config" if explicit else "CHATPAGER_CONFIG"
            raise ConfigError("config", "no such file", value=named, source=source)
        return path
    home = Path(os.path.expanduser(env.get("XDG_CONFIG_HOME") or "~/.config"))
    return next((p for p in (Path("chatpager.toml"), home / "chatpager" / "chatpager.toml") if os.path.isfile(p)), None)


def _read_file(path: Path | None) -> dict[str, tuple[Any, str]]:
    """Flat name -> (value, source) of a settings file."""
    if path is None:
        return {}
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except RecursionError as error:
        raise ConfigError("config", "cannot be read: it is nested too deep", value=str(path)) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("config", f"cannot be read: {error}", value=str(path)) from error
    except ValueError as error:
        raise ConfigError("config", "cannot be read: a number in it is too long", value=str(path)) from error
    known = {s: {f.name for f in fields(cls)} for s, cls in SECTIONS.items()}
    found: dict[str, tuple[Any, str]] = {}
    for section, body in tree.items():
        if section in known and not isinstance(body, dict):
            raise ConfigError(section, f"is a section: put its settings under [{section}]", source=str(path))
        if section not in known:
            raise ConfigError(section, _no_section(section, known), source=str(path))
        for name, value in body.items():
            if name not in known[section]:
                raise ConfigError(f"{section}.{name}", no_such(name, known[section], "setting"), source=str(path))
            found[name] = (value, f"{path} [{section}]")
    return found


def _refuse_misspelt(env: Mapping[str, str]) -> None:
    """A variable that is nearly a setting's is a mistake; any other may belong to the machine, as the names that
    Kubernetes makes for a service called chatpager."""
    known = {s.name for s in settings()}
    for variable in env:
        name = variable.removeprefix("CHATPAGER_").lower()
        if name == variable.lower() or name in known | OTHER_VARIABLES:
            continue
        if close := difflib.get_close_matches(name, known, n=1, cutoff=0.75):
            problem = f"no such setting; did you mean CHATPAGER_{close[0].upper()}?"
            raise ConfigError(variable, problem, source="environment")


def _no_section(name: str, known: Mapping[str, set[str]]) -> str:
    home = next((section for section, names in known.items() if name in names), None)
    return f"is a setting: put it under [{home}]" if home else no_such(name, known, "section")


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    file: str | None = None,
    env: Mapping[str, str] = os.environ,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Build the tree. ``flags`` holds the settings given on the command line (None: not given);
    ``defaults`` are a command's own defaults, below the file and above the field's.

    Raises:
        ConfigError: a value is wrong, a file unreadable, or a name unknown.
    """
    flags = {k: v for k, v in (flags or {}).items() if v is not None}
    _refuse_misspelt(env)
    path = config_file(file, env)
    from_file = _read_file(path)
    sections: dict[str, dict[str, Any]] = {s: {} for s in SECTIONS}
    sources: dict[str, str] = {}
    for s in settings():
        if s.name in flags:
            value, source = flags[s.name], s.flag
        elif s.env in env:
            value, source = env[s.env], s.env
        elif s.name in from_file:
            value, source = from_file[s.name]
        elif defaults and s.name in defaults:
            value, source = defaults[s.name], "command default"
        else:
            continue
        sections[s.section][s.name] = convert(s, value, source)
        sources[s.name] = source
    _take_key_from_file(sections["server"], sources)
    secret = {
        "api_key": bool(sections["server"].get("api_key")),
        "database_url": _has_password(sections["store"].get("database_url", "")),
    }
    for name in secret:
        if secret[name] and path is not None and sources[name].startswith(f"{path} ["):
            _refuse_open_secret(name, path, sources[name])
    _refuse_fake(sections, sources)
    return Config(
        EngineConfig(**sections["engine"]),
        ServerConfig(**sections["server"]),
        StoreConfig(**sections["store"]),
        sources,
    )


def _refuse_fake(sections: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str]) -> None:
    """Refused rather than warned of: what a fake says would be stored in people's conversations for ever."""
    if sections["engine"].get("engine") == "fake" and not sections["server"].get("test_mode"):
        problem = "is for tests: it answers with made-up words; it needs --test-mode"
        raise ConfigError("engine", problem, value="fake", source=sources["engine"])


def _take_key_from_file(server: dict[str, Any], sources: dict[str, str]) -> None:
    """``api_key_file`` is another way to give ``api_key``: the one nearer to the hand wins, and side by side the key
    itself. Raises ConfigError: the file cannot be read, or holds no key."""
    if not (named := server.get("api_key_file")):
        return
    source = sources["api_key_file"]
    if "api_key" in server and _distance(sources["api_key"]) <= _distance(source):
        return
    try:
        key = Path(named).expanduser().read_text("utf-8").strip()
        open_to_all = _is_open_to_all(Path(named).expanduser())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no UTF-8 text"
        raise ConfigError("api_key_file", f"cannot be read: {reason}", value=named, source=source) from error
    problem = header_text(key) if key else "is empty: write the key into it"
    if open_to_all and not problem:
        problem = OPEN_TO_ALL.format(named)
    if problem:
        raise ConfigError("api_key_file", problem, value=named, source=source)
    server["api_key"], sources["api_key"] = key, f"{named} ({source})"


OPEN_TO_ALL = "everybody on this machine may read it: chmod 600 {}"


def _refuse_open_secret(name: str, file: Path, source: str) -> None:
    if _is_open_to_all(file):
        raise ConfigError(name, OPEN_TO_ALL.format(file), source=source)


def _has_password(url: str) -> bool:
    """Whether one stands in a database's address, or may."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return True
    return bool(parts.password) or "pass" in parts.query.lower()


def _is_open_to_all(file: Path) -> bool:
    """Of this user's own files: whoever mounts a secret for a container makes it readable there, and only there."""
    found = file.stat()
    return found.st_uid == os.geteuid() and bool(found.st_mode & stat.S_IROTH)


def _distance(source: str) -> int:
    """From the hand: 0 a flag, 1 a variable, 2 what a file says."""
    return 0 if source.startswith("--") else 1 if source.startswith("CHATPAGER_") else 2
