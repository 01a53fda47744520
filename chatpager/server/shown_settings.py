"""Settings as people are shown them: where each came from, and of secrets only that they are set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from chatpager.config import Config
from chatpager.config_values import Setting, settings
from chatpager.server import wire_admin
from chatpager.store import address


def _without_password(url: str) -> str:
    parsed = address.parse(url)
    return url if address.is_sqlite(parsed) else address.shown(parsed)


SECRETS: dict[str, Callable[[str], str]] = {
    "api_key": lambda _: "(set)",
    "database_url": _without_password,
}


class Shown(NamedTuple):
    setting: Setting
    value: Any
    source: str


def shown_settings(config: Config) -> Iterator[Shown]:
    """All of them, in the order of the tree."""
    for s in settings():
        value = getattr(getattr(config, s.section), s.name)
        shown = SECRETS[s.name](value) if s.name in SECRETS and value else value
        yield Shown(s, shown, config.sources.get(s.name, "default"))


def settings_told(config: Config) -> list[wire_admin.Setting]:
    """The same for the admin page."""
    return [
        wire_admin.Setting(
            section=s.section, name=s.name, value="" if value is None else str(value), source=source, help=s.help
        )
        for s, value, source in shown_settings(config)
    ]
