"""Models, health, metrics, version, and the pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from chatpager import __version__
from chatpager.engine.stats import EngineStats
from chatpager.errors import ModelNotFound, shown
from chatpager.server import wire
from chatpager.server.own_figures import own_figures
from chatpager.server.routes_responses import json_response
from chatpager.server.service import SERVICE, Service
from chatpager.sessions.replica_answers import stats_of

STATIC = Path(__file__).parent / "static"
CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'{sockets}; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?")
"""What may stand in a policy; to an address in brackets 'self' must do."""
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}
NO_PAGE = """chatpager is running. Its page is not built in this checkout; to build it: make page
The API is at /v1 (Responses, Conversations, Chat Completions), metrics at /metrics, health at /health.
"""
PAGES = {"/": "/index.html", "/admin": "/admin.html"}
ASSETS = web.AppKey("assets", dict[str, tuple[bytes, str]])


def read_assets(folder: Path = STATIC) -> dict[str, tuple[bytes, str]]:
    """Every file of the built page by its path: what is not in here cannot be asked for."""
    return {
        "/" + path.relative_to(folder).as_posix(): (path.read_bytes(), TYPES[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in TYPES
    }


async def models(request: web.Request) -> web.Response:
    model = _model(request.app[SERVICE])
    return json_response(wire.Page(data=[model], first_id=model.id, last_id=model.id, has_more=False))


async def model(request: web.Request) -> web.Response:
    service, name = request.app[SERVICE], request.match_info["id"]
    if name not in (service.served.name, "default"):
        raise ModelNotFound(f"model {shown(name)} is not served here; this is {service.served.name!r}", param="model")
    return json_response(_model(service))


def _model(service: Service) -> wire.Model:
    return wire.Model(id=service.served.name, created=service.started_at // 1000)


async def live(request: web.Request) -> web.Response:
    """The process answers."""
    return json_response({"status": "ok"})


async def health(request: web.Request) -> web.Response:
    """Ready to begin turns, or 503 with the reason; and what the KV cache holds."""
    service = request.app[SERVICE]
    stats = await _stats(service)
    thread = service.hub.engine
    dead = "restarting" if thread.restarting else "stopped"
    able = "ok" if service.metrics.numbers.good else "numeric_errors"
    able = "degraded" if able == "ok" and service.store.refuses else able
    engine = dead if not thread.alive else "stalled" if stats is None else able
    status = "draining" if service.draining else "storage_lost" if service.store.unusable else engine
    body: dict[str, Any] = {"status": status, "version": __version__, "model": service.served.name}
    if status == "degraded":
        body["cause"] = f"the database {service.store.refuses}"
    if thread.restarts:
        body["restarts"] = thread.restarts
    if service.hub.is_fake:
        body["engine"] = "fake"
    if stats is not None:
        body["max_model_len"] = service.hub.max_model_len
        memory = stats.memory
        body["kv"] = {
            **msgspec.to_builtins(memory),
            "tokens": memory.blocks * memory.block_size,
            "waste": round(memory.waste, 4),
            "utilisation": round(memory.utilisation, 4),
        }
        body["tiers"] = {
            "host": {"bytes": stats.host_bytes, "capacity_bytes": stats.host_capacity},
            "disk": {
                "bytes": stats.disk_bytes,
                "capacity_bytes": stats.disk_capacity,
                "warm_fraction": stats.warm_fraction,
                "bad_files": stats.bad_disk_files,
                "failed_writes": stats.failed_disk_writes,
            },
        }
        counted = ("queried", "hit", "host_hit", "disk_hit", "lost", "recomputed")
        body["cache"] = {f"{name}_tokens": getattr(stats, f"{name}_tokens") for name in counted}
        body["requests"] = {"running": stats.running, "waiting": stats.waiting}
    return json_response(body, status=200 if status == "ok" else 503)


async def version(request: web.Request) -> web.Response:
    return json_response({"version": __version__})


async def metrics(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    stats = await service.hub.engine.stats_of_each(service.stats_seconds)
    own = await own_figures(service.store.transactions)
    text = service.metrics.render(stats, own, service.hub.engine.replicas())
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def _stats(service: Service) -> EngineStats | None:
    """Of all engines together; None where each has stopped, or does not come to the end of its step."""
    found = await service.hub.engine.stats_of_each(service.stats_seconds)
    return stats_of(list(found.values())) if found else None


def policy(host: str) -> str:
    """What a page of this host may load and whom it may ask: nobody else. Older browsers do not count the sockets of a
    host as its own."""
    return CSP.format(sockets=f" ws://{host} wss://{host}" if HOST.fullmatch(host) else "")


async def page(request: web.Request) -> web.Response:
    """The chat page, the admin page, or one of their files."""
    path = PAGES.get(request.path, request.path)
    asset = request.app[ASSETS].get(path)
    if asset is None:
        if request.path in PAGES:
            return web.Response(text=NO_PAGE)
        raise web.HTTPNotFound
    body, kind = asset
    hashed = path.startswith("/assets/")
    return web.Response(
        body=body,
        content_type=kind,
        charset="utf-8" if kind.startswith("text/") else None,
        headers={
            "Content-Security-Policy": policy(request.host),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "public, max-age=31536000, immutable" if hashed else "no-cache",
        },
    )
