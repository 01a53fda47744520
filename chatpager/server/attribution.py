"""What a client says a call belongs to, by a header: for the log, and nothing else.

A header alone changes nothing of a prompt, and finds no conversation: whoever guessed another's name would be in it.
"""

from __future__ import annotations

from aiohttp import web

HEADERS = ("x-session-id", "session-id", "x-session-affinity", "x-conversation-id", "x-openwebui-chat-id")
"""Those of agent frameworks, opencode and Codex, llama.cpp's clients and Open WebUI; the first that is there counts."""
MAX_NAME = 128


def attribution(request: web.Request) -> dict[str, str]:
    """``client_session``, the client's own name for the session that the call is of; nothing where it sends none that
    can be shown."""
    for header in HEADERS:
        name = request.headers.get(header, "").strip()
        if 0 < len(name) <= MAX_NAME and name.isascii() and name.isprintable():
            return {"client_session": name}
    return {}
