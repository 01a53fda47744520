"""Errors as HTTP answers: in OpenAI's shape, or in Anthropic's where the wire is Anthropic's; and when to try again."""

from __future__ import annotations

from aiohttp import web

from chatpager.errors import ChatpagerError, EngineStopped, MethodNotAllowed, Overloaded, UpgradeRequired
from chatpager.server import wire
from chatpager.server.error_bodies import LATER, RETRY_SECONDS, error_body, retry_after
from chatpager.server.wire_messages import AnthropicError, AnthropicErrorBody

REQUEST_ID = web.RequestKey("request_id", str)
ANTHROPIC_PATH = "/v1/messages"
OVERLOADED = 529
"""What Anthropic says instead of 503 when there is too much to do."""
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    OVERLOADED: "overloaded_error",
}
"""Status -> type; of others it is the client's mistake or the server's."""
NEVER = (507,)
"""Those that clients would take for such, and that would only be refused again."""


def error_response(error: ChatpagerError, request: web.Request) -> web.Response:
    status, body = error_body(error)
    seconds = retry_after(error)
    headers = {} if seconds is None else _retry_after(seconds)
    if isinstance(error, EngineStopped):
        headers["x-should-retry"] = "false"
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.allowed
    if isinstance(error, UpgradeRequired):
        headers["upgrade"] = "websocket"
    answer: wire.ErrorAnswer | AnthropicError = wire.ErrorAnswer(body)
    if is_anthropic(request):
        status = OVERLOADED if isinstance(error, Overloaded) else status
        answer = anthropic_error(status, body, request[REQUEST_ID])
    return web.Response(text=wire.encode(answer), status=status, content_type="application/json", headers=headers)


def retry_hints(status: int) -> dict[str, str]:
    """Headers that the SDKs of OpenAI and Anthropic read, for an answer that has none yet."""
    if status in (*LATER, OVERLOADED):
        return {**_retry_after(RETRY_SECONDS), "x-should-retry": "true"}
    return {"x-should-retry": "false"} if status in NEVER else {}


def _retry_after(seconds: float) -> dict[str, str]:
    return {"retry-after": str(max(1, round(seconds))), "retry-after-ms": str(round(1000 * seconds))}


def is_anthropic(request: web.Request) -> bool:
    return request.path == ANTHROPIC_PATH or request.path.startswith(ANTHROPIC_PATH + "/")


def anthropic_error(status: int, error: wire.ErrorBody, request_id: str) -> AnthropicError:
    kind = ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return AnthropicError(error=AnthropicErrorBody(kind, error.message), request_id=request_id)
