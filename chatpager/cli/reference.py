"""``python -m chatpager.cli.reference``: every command's help as one page of Markdown, which is docs/cli.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from chatpager.cli.app import DEMO_DEFAULTS, SERVE_DEFAULTS, app
from chatpager.cli.flags import PANELS
from chatpager.cli.remote import FLAGS
from chatpager.config_values import SECTIONS, Setting, settings

HEAD = """# The commands

This page is generated: `make docs`. Every command also explains itself, with an example, under `--help`, and the shell
completes all of them once `chatpager --install-completion` was run.

Exit codes: 0 done; 1 failed: the server refused it or is not there, or a check found something wrong; 2 wrong usage or
settings; 130 interrupted. What is for programs goes to standard output, what is for people beside it to standard error.
Colours are for terminals, and not where `NO_COLOR` is set.
"""
SETTINGS = """## Settings

The nearest to the hand wins: a flag, a variable, the settings file, the command's default, the default. The file is
`--config`, `CHATPAGER_CONFIG`, `chatpager.toml` in the working folder, or `chatpager/chatpager.toml` in the user's
settings folder. `chatpager config show` tells each value and where it came from.

Defaults of `serve`: {serve}; of `demo`: {demo}.
"""
SERVER_FLAGS = "and the flags that [name a server](#which-server)"


def reference() -> str:
    """The whole page."""
    root = get_command(app)
    parts = [HEAD, *_command_parts(root, ("chatpager",)), _which_server(root), *_setting_parts()]
    return "\n".join(parts)


def _command_parts(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    inner = {name: c for name, c in getattr(command, "commands", {}).items() if not c.hidden}
    if len(path) > 1:
        yield _section(command, path, has_inner=bool(inner))
    for name in inner:
        yield from _command_parts(inner[name], (*path, name))


def _section(command: Any, path: tuple[str, ...], *, has_inner: bool) -> str:
    words = " ".join(path)
    lines = [f"{'#' if len(path) == 2 else '##'}# {words}\n", f"{_prose(command.help or '')}\n"]
    if has_inner:
        return "\n".join(lines)
    rows = [_row(p) for p in command.params if _is_own(p, command)]
    more = [
        text for text, there in ((SERVER_FLAGS, _asks_server(command)), (_sections(command), True)) if there and text
    ]
    if rows:
        lines += ["| | |", "| --- | --- |", *rows, ""]
    if more:
        lines.append(f"{'; '.join(more).capitalize()}.\n")
    lines.append(f"```\n{command.epilog.removeprefix('Example: ')}\n```\n")
    return "\n".join(lines)


def _is_own(parameter: Any, command: Any) -> bool:
    return not (
        parameter.name == "help"
        or getattr(parameter, "rich_help_panel", None) in PANELS.values()
        or (parameter.name in FLAGS and _asks_server(command))
    )


def _asks_server(command: Any) -> bool:
    return set(FLAGS) <= {p.name for p in command.params}


def _sections(command: Any) -> str:
    """The settings that a command takes."""
    panels = {getattr(p, "rich_help_panel", None) for p in command.params}
    links = [f"[{name}](#{name})" for name, panel in PANELS.items() if panel in panels]
    return f"and the settings of {', '.join(links)} as flags" if links else ""


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default
    told = type(default) in (int, float, str) and default != "" and "default" not in (parameter.help or "")
    shown = f" (default: {default})" if told else ""
    return f"| {name} | {_cell(parameter.help or '')}{shown} |"


def _which_server(root: Any) -> str:
    command = root.commands["chat"]
    rows = [_row(p) for p in command.params if p.name in FLAGS]
    about = "Commands that ask a server find it by the settings `host` and `port`, or by `CHATPAGER_URL`, or are told:"
    return "\n".join(["## Which server\n", f"{about}\n", "| | |", "| --- | --- |", *rows, ""])


def _setting_parts() -> Iterator[str]:
    yield SETTINGS.format(serve=_defaults(SERVE_DEFAULTS), demo=_defaults(DEMO_DEFAULTS))
    for section in SECTIONS:
        rows = [_setting_row(s) for s in settings() if s.section == section]
        head = [f"### {section}\n", f"In the file under `[{section}]`.\n"]
        yield "\n".join([*head, "| Flag | Variable | Default | |", "| --- | --- | --- | --- |", *rows, ""])


def _setting_row(s: Setting) -> str:
    default = "" if s.default in (None, "") else f"`{_plain(s.default)}`"
    return f"| `{s.flag}` | `{s.env}` | {default} | {_cell(s.help)} |"


def _defaults(defaults: dict[str, Any]) -> str:
    return ", ".join(f"`{name} = {_plain(value)}`" for name, value in defaults.items())


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _prose(text: str) -> str:
    return re.sub(r"\[/?bold\]", "`", inspect.cleandoc(text))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(reference(), end="")
