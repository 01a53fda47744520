"""Settings as flags: each command gets the flags of its sections from the one list in ``config``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any

import typer

from chatpager.config_values import Setting
from chatpager.config_values import settings as all_settings

PANELS = {"engine": "Engine", "server": "Server", "store": "Store"}


def with_settings(
    *sections: str, leave_out: frozenset[str] | set[str] = frozenset(), defaults: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Replace the function's ``settings`` parameter by a flag for every setting of ``sections``. A flag that is not
    given is None, and its value comes from the environment, the file or the default (``config_sources.load``).
    ``defaults`` are the command's own, which its help shows."""
    chosen = [s for s in all_settings() if s.section in sections and s.name not in leave_out]
    flags = [_flag(s, (defaults or {}).get(s.name, s.default)) for s in chosen]
    return lambda function: filled_in(function, "settings", flags, dict)


def filled_in(
    function: Callable[..., Any], name: str, flags: Sequence[inspect.Parameter], make: Callable[[dict[str, Any]], Any]
) -> Callable[..., Any]:
    """``function`` as a command that has ``flags`` in place of its parameter ``name``, which ``make`` makes of what
    they were given."""
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != name]

    @wraps(function)
    def command(**given: Any) -> Any:
        made = make({flag.name: given.pop(flag.name) for flag in flags})
        return function(**{name: made}, **given)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *flags]]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _flag(s: Setting, value: Any) -> inspect.Parameter:
    default = "" if value in (None, "") else f" [dim]\\[{str(value).lower() if s.type is bool else value}][/dim]"
    names = [f"{s.flag}/--no-{s.flag[2:]}"] if s.type is bool else [s.flag]
    option = typer.Option(
        *names,
        help=f"{s.help}{default}",
        rich_help_panel=PANELS[s.section],
        show_default=False,
        metavar=None if s.type is bool else s.type.__name__.upper().replace("STR", "TEXT"),
    )
    # Text, so that every source is checked by the same rules and blamed by the same words.
    annotation: Any = Annotated[bool | None, option] if s.type is bool else Annotated[str | None, option]
    return inspect.Parameter(s.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
