"""Whether other machines reach the server, told before anything heavy is imported."""

from __future__ import annotations

import ipaddress

from chatpager.config import ServerConfig
from chatpager.errors import ConfigError
from chatpager.program import program

LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def is_loopback(host: str) -> bool:
    if host in LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_exposed(config: ServerConfig) -> bool:
    """Whether other machines reach the server, and it has no key of its own, nor the word that it needs none."""
    hosts = [config.host] if config.admin_port is None else [config.host, config.admin_host]
    return not (all(map(is_loopback, hosts)) or config.api_key or config.insecure)


def exposure(config: ServerConfig) -> ConfigError:
    """Why a server ``is_exposed`` where no key is stored either."""
    return ConfigError(
        "host",
        "other machines could reach this address, so set --api-key (or CHATPAGER_API_KEY), "
        f"make a key with {program()} keys create, or say --insecure if that is meant",
        value=config.host,
    )
