"""The fixtures of a running server."""

from tests.serving import empty_database, serve, server  # noqa: F401
