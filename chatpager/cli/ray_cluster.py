"""Replicas in a Ray cluster: how it is reached, and what it is refused for. Ray runs whatever who reaches it sends, so
there is none without a token.

What blocks is to be called in a thread: as Ray joins in the main thread it takes SIGTERM for itself, and what it starts
ends with the thread that started it.
"""

from __future__ import annotations

import logging
import os
import secrets
from importlib.util import find_spec
from pathlib import Path

from chatpager.config import Config
from chatpager.engine.whole_file import write_once
from chatpager.errors import ConfigError
from chatpager.sessions.ray_actor import AUTH_MODE
from chatpager.sessions.ray_link import end_actor

LOCAL = "local"
TOKEN = "ray-token"  # noqa: S105  # a file's name
STORE_BYTES = 200 << 20
"""Of Ray's object store: nothing large goes through it."""
TOKEN_VALUE, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def join(config: Config) -> None:
    """Make this process one of the cluster's; blocks.

    Raises:
        ConfigError: Ray is not installed, nobody gave a token, or the cluster cannot be reached or begun.
    """
    address = config.server.ray_address
    has_token = os.environ.get(AUTH_MODE) == "token" and (os.environ.get(TOKEN_VALUE) or os.environ.get(TOKEN_PATH))
    if address != LOCAL and not has_token:
        raise ConfigError(
            "ray_address",
            f"Ray without a token runs whatever anybody sends it: start every node with {AUTH_MODE}=token and "
            f"{TOKEN_PATH}, and this server, too",
            value=address,
        )
    if find_spec("ray") is None:
        raise ConfigError("ray_address", "needs Ray: pip install 'chatpager[ray]'", value=address)
    if address == LOCAL:
        begin(config.store.resolved_data_dir(), cpus=config.server.replicas)
    else:
        _join(address)


def _join(address: str | None, **more: object) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # it looks for the token as it is imported
    from ray.exceptions import RayError

    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that it leaves SIGTERM alone
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **more)
    except (OSError, RayError, RuntimeError, ValueError) as error:
        raise ConfigError("ray_address", f"there is no cluster: {error}", value=address) from error


def begin(folder: Path, *, cpus: int) -> None:
    """A cluster of this machine alone, which ends with this process and that nobody else reaches. ``folder`` has its
    token, which stays: another server may have it while it finds out that the database is taken. Blocks.
    Raises ConfigError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TOKEN
    if not path.exists():
        write_once(path, secrets.token_hex(32).encode())
    os.environ.update({AUTH_MODE: "token", TOKEN_PATH: str(path)})
    os.environ.pop(TOKEN_VALUE, None)
    _join(
        LOCAL,
        include_dashboard=False,
        num_cpus=cpus,
        object_store_memory=STORE_BYTES,
        _node_ip_address="127.0.0.1",
    )


def leave(config: Config) -> None:
    """Actors of a cluster that was begun here end with it; others go on. Blocks."""
    if config.server.ray_address == LOCAL:
        for name in names(config):
            end_actor(name)
    end()


def end() -> None:
    """This process is none of the cluster's any more, which ends if it was begun here. Blocks."""
    import ray

    ray.shutdown(wait_for_processes=True)


def names(config: Config) -> list[str]:
    """Of the actors, one for each replica."""
    return [f"{config.server.ray_name}-r{i}" for i in range(config.server.replicas)]
