"""``chatpager doctor``: what is here, what is wrong, and the way out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from chatpager.cli.listening import cannot_listen
from chatpager.config import Config
from chatpager.config_sources import load
from chatpager.errors import ChatpagerError, NotUpgraded
from chatpager.program import program


class Finding(NamedTuple):
    what: str
    state: str
    """ok, note or wrong."""
    text: str


COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


async def examine(given: dict[str, Any], file: str | None, defaults: dict[str, Any], *, as_json: bool) -> int:
    """Print every finding; 1 if something is wrong. ``defaults`` are those of the command that serves."""
    config = load(given, file=file, defaults=defaults)
    findings = [*_software(), _gpu(), _page(), _port(config), await _access(config), *_model(config)]
    findings.append(await _database(config))
    if as_json:
        print(json.dumps([f._asdict() for f in findings], indent=2))
    else:
        console = Console(soft_wrap=True)
        for f in findings:
            console.print(Text.assemble((f"{f.state:5}", COLOURS[f.state]), f" {f.what:10} {f.text}"))
    return int(any(f.state == "wrong" for f in findings))


def _software() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    yield Finding("python", "ok", sys.version.split()[0])
    for name in ("torch", "transformers", "triton", "aiohttp", "websockets", "sqlalchemy"):
        try:
            yield Finding(name, "ok", version(name))
        except PackageNotFoundError:
            needed = name != "triton"
            text = "not installed" + ("" if needed else " (needed only on a GPU)")
            yield Finding(name, "wrong" if needed else "note", text)


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return Finding("gpu", "ok", f"{torch.cuda.get_device_name()}, {free >> 30} of {total >> 30} GiB free")
    return Finding("gpu", "note", "none seen by torch: models run on the CPU")


def _page() -> Finding:
    from chatpager.server.routes_ops import STATIC

    if (STATIC / "index.html").is_file():
        return Finding("page", "ok", "built")
    return Finding("page", "note", "not built: / shows only a line of text (make page)")


def _port(config: Config) -> Finding:
    if problem := cannot_listen(config.server):
        return Finding("port", "wrong", str(problem))
    return Finding("port", "ok", f"{config.server.host}:{config.server.port} is free")


async def _access(config: Config) -> Finding:
    from chatpager.cli.keys import has_live_key
    from chatpager.server.exposure import exposure, is_exposed

    try:
        stored = await has_live_key(config.store.resolved_database_url())
    except (ChatpagerError, OSError):  # the database's own finding tells it
        stored = False
    if config.server.api_key or stored:
        return Finding("access", "ok", "with a key")
    if is_exposed(config.server):
        return Finding("access", "wrong", str(exposure(config.server)))
    return Finding("access", "ok", "whoever reaches the address")


def _length(config: Config, longest: int) -> Finding | None:
    asked = config.engine.max_model_len
    if asked is None or asked <= longest:
        return None
    return Finding("length", "wrong", f"max_model_len={asked}: this model serves at most {longest} tokens")


def _model(config: Config) -> Iterator[Finding]:
    from chatpager.demo import model_path
    from chatpager.engine import loader
    from chatpager.engine.chat_template import ChatTemplate
    from chatpager.engine.model_digest import model_digest, require_digest
    from chatpager.engine.tokenizer import Tokenizer

    path = Path(config.engine.model).expanduser() if config.engine.model else model_path()
    try:
        checked = loader.check(path)
        loader.sampling_defaults(path)
        size = sum(shard.stat().st_size for shard in checked.shards) / 1e6
        name, longest = checked.config.model_type, checked.shape.max_positions
        yield Finding("model", "ok", f"{path}: {name}, {size:.1f} MB, up to {longest:,} tokens")
        if too_long := _length(config, longest):
            yield too_long
        require_digest(path, config.engine.model_sha256)
        yield Finding("digest", "ok", f"model_sha256 = {config.engine.model_sha256 or model_digest(path)}")
        tokenizer = Tokenizer(path)
    except (ChatpagerError, OSError) as error:
        yield Finding("model", "wrong", str(error))
        return
    if not tokenizer.has_template:
        yield Finding("template", "note", "none: the model can complete prompts, not chat")
        return
    try:
        traits = ChatTemplate(tokenizer).traits
    except ChatpagerError as error:
        yield Finding("template", "wrong", str(error))
        return
    odd = [
        text
        for fine, text in (
            (traits.system, "no system messages (they become the user's words)"),
            (traits.late_system, "no system message after the first (it becomes the user's words)"),
            (traits.same_role_twice, "roles must alternate (neighbours are joined)"),
            (traits.keeps_answers, "rewrites earlier answers (they are kept as generated)"),
        )
        if not fine
    ]
    yield Finding("template", "note" if odd else "ok", "; ".join(odd) or "extends from turn to turn")


async def _database(config: Config) -> Finding:
    from chatpager.store import Store, address, schema

    url = config.store.resolved_database_url()
    try:
        missing = address.missing_file(url)
        if missing:
            return _can_be_made(missing)
        store = await Store.open(url, migrate=False)
    except NotUpgraded as error:
        return Finding("database", "note", f"{error}; the server mends that, as `{program()} db upgrade` does")
    except (ChatpagerError, OSError) as error:
        return Finding("database", "wrong", str(error))
    await store.close()
    return Finding("database", "ok", f"{store.shown}, revision {schema.head()}")


def _can_be_made(file: Path) -> Finding:
    nearest = next(folder for folder in file.absolute().parents if folder.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Finding("database", "note", f"{file} is not there yet; the server makes it")
    return Finding("database", "wrong", f"{file} cannot be made: {nearest} cannot be written; choose --data-dir")
