"""One answer as it streams: the fold of the Responses API's events."""

from __future__ import annotations

from typing import Any

SHOWN_ERROR = 80
"""Characters of an error, in a reply's ``repr``."""
TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
ENDS = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",
    "failed": "response.failed",
}


class Reply:
    """``text`` grows with every event; the account is there once ``done``. ``status`` is the response's, or
    "interrupted" when the connection ended before the answer did or it was left, or "refused" when none began."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.text = ""
        self.reasoning = ""
        """What the model thought first."""
        self.status = "in_progress"
        self.error: str | None = None
        self.response: dict[str, Any] = {}
        """The response object of the terminal event."""

    def __repr__(self) -> str:
        """Without what was said: a reply may stand in a log."""
        told = [self.id or "no id", self.status, f"{len(self.text)} characters"]
        if self.response:
            told.append(f"{self.input_tokens} tokens in ({self.cached_tokens} cached), {self.output_tokens} out")
        told += [f"{len(self.calls)} calls"] if self.calls else []
        told += [f"error: {self.error[:SHOWN_ERROR]}"] if self.error else []
        return f"<Reply {', '.join(told)}>"

    @property
    def done(self) -> bool:
        return self.status != "in_progress"

    def feed(self, event: dict[str, Any]) -> None:
        """Take one event of the wire."""
        kind = event["type"]
        if kind == "response.created":
            self.id = event["response"]["id"]
        elif kind == "response.output_text.delta":
            self.text += event["delta"]
        elif kind == "response.reasoning_text.delta":
            self.reasoning += event["delta"]
        elif kind in TERMINAL:
            self.response = event["response"]
            self.status = self.response["status"]
            if error := self.response.get("error"):
                self.error = error["message"]

    def refuse(self, message: str) -> None:
        self.status, self.error = "refused", message

    def rest_of(self, response: dict[str, Any]) -> list[dict[str, Any]]:
        """Events of the wire with what this stored response has beyond the reply, the last its end; none where it has
        not ended. A text that does not begin as the reply's, which a killed server had not stored yet, adds nothing."""
        if response["status"] not in ENDS:
            return []
        kinds = (("reasoning", self.reasoning, "reasoning_text"), ("message", self.text, "output_text"))
        events = []
        for kind, had, name in kinds:
            parts = [part for item in response["output"] if item["type"] == kind for part in item["content"]]
            text = "".join(part["text"] for part in parts)
            if text.startswith(had):
                events.append({"type": f"response.{name}.delta", "delta": text[len(had) :]})
        return [*events, {"type": ENDS[response["status"]], "response": response}]

    @property
    def input_tokens(self) -> int:
        return int((self.response.get("usage") or {}).get("input_tokens", 0))

    @property
    def output_tokens(self) -> int:
        return int((self.response.get("usage") or {}).get("output_tokens", 0))

    @property
    def cached_tokens(self) -> int:
        usage = self.response.get("usage") or {}
        return int(usage.get("input_tokens_details", {}).get("cached_tokens", 0))

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tools that it calls: items with ``call_id``, ``name`` and ``arguments``. A call that was cut is none."""
        items = [item for item in self.response.get("output", []) if item["type"] == "function_call"]
        return [item for item in items if item.get("status") != "incomplete"]

    @property
    def receipt(self) -> dict[str, Any]:
        """Where the prompt's tokens came from, and why not more of them from the cache."""
        return (self.response.get("chatpager") or {}).get("cache") or {}

    @property
    def miss_reason(self) -> str | None:
        return self.receipt.get("miss_reason")

    @property
    def ttft_ms(self) -> float | None:
        """Milliseconds to the first token, by the server's clock."""
        return ((self.response.get("chatpager") or {}).get("timings") or {}).get("ttft_ms")
