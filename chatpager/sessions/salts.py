"""What keeps one tenant's KV blocks apart from another's, on every tier: a salt in the name of each block.

It is derived from who asks and from a secret of the server's, so that nobody who knows a tenant's name and a text can
tell the names of its blocks, nor offer blocks under them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from functools import lru_cache
from pathlib import Path

import structlog

from chatpager.engine.whole_file import write_once
from chatpager.errors import ConfigError

log = structlog.get_logger(__name__)

SECRET_BYTES = 32
SHOWN_DIGITS = 12
KNOWN = 1024
"""Tenants whose salts are kept."""


class Salts:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.of = lru_cache(KNOWN)(self._of)  # asked for several times a turn

    def _of(self, tenant: str) -> bytes:
        return hmac.digest(self._secret, tenant.encode(), "sha256")

    def shown(self, tenant: str) -> str:
        """What tells one salt from another, without telling it."""
        return hashlib.sha256(self.of(tenant)).hexdigest()[:SHOWN_DIGITS]


def server_secret(folder: Path) -> bytes:
    """The secret that is kept in ``folder``, made at the first start. Where it cannot be kept it is another one at each
    start, and what the disk keeps of conversations is not found again.

    Raises:
        ConfigError: what is there is none of ours.
    """
    path = folder / "secret"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_once(path, secrets.token_bytes(SECRET_BYTES))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
            log.warning("secret", problem=f"{path}: others could read it", result="from now on its owner alone can")
        found = path.read_bytes()
    except OSError as error:
        log.warning(
            "secret", problem=f"{path}: {error.strerror or error}", result="conversations are cold after a restart"
        )
        return secrets.token_bytes(SECRET_BYTES)
    if len(found) != SECRET_BYTES:
        raise ConfigError("data_dir", f"{path} is no secret of ours; delete it, and kv beside it", value=str(folder))
    return found


def domain_of(secret: bytes) -> bytes:
    """What tells whether blocks on disk were named with this secret, without telling it."""
    return hmac.digest(secret, b"blocks on disk", "sha256")
