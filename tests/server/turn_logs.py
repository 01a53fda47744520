"""Logs of turns as the hub writes them, for the encoders and the protocol."""

from chatpager.engine.tool_calls import CallDelta, CallEnd
from chatpager.server.encode_response import ResponseFacts, response_object
from chatpager.sessions.answers import CallBegun, Delta, ToolCall, answer_of
from chatpager.sessions.receipt import Receipt
from chatpager.sessions.stream import Ended, Prefilled, Started, Timings

USAGE = {"input_tokens": 20, "cached_tokens": 8, "cache_write_tokens": 16, "output_tokens": 3}
RECEIPT = Receipt(
    prompt_tokens=20, device_tokens=8, computed_tokens=12, block_size=8, attainable_tokens=8,
    miss_reason=None, template="exact",
)  # fmt: skip
TIMINGS = Timings(queue_ms=1.0, prefill_ms=2.0, ttft_ms=3.0, decode_tok_s=4.0, total_ms=5.0)
FAILURES = {"failed": ("engine_step_failed", "a step failed")}


def facts(id="resp_1", **more):
    return ResponseFacts(
        **{
            "id": id,
            "created_at": 1_700_000_000_123,
            "model": "tiny",
            "previous_response_id": None,
            "conversation_id": None,
            "parameters": {"store": True, "metadata": {}},
            **more,
        }
    )


def ended(status="completed", text="Hello", tokens=3, **more):
    code, message = FAILURES.get(status, (None, None))
    return Ended(
        status=status, finish="stop", at=1_700_000_001_999, text=text, output_tokens=tokens, receipt=RECEIPT,
        cache_write_tokens=16, timings=TIMINGS, error_code=code, error_message=message,
        **more,
    )  # fmt: skip


def said(piece):
    """A text, a thought or a call as events. A call comes in two pieces, and has no end unless it is whole."""
    if not isinstance(piece, ToolCall):
        return [Delta(piece) if isinstance(piece, str) else piece]
    halves = (piece.arguments[:3], piece.arguments[3:])
    ends = [CallEnd()] if piece.is_whole else []
    return [CallBegun(piece.id, piece.name), *(CallDelta(half) for half in halves if half), *ends]


def log(*pieces, status="completed", id="resp_1", prefills=0, tokens=None):
    """Every event of a turn whose answer came in these pieces, texts and calls."""
    tokens = len(pieces) if tokens is None else tokens
    events = [event for piece in pieces for event in said(piece)]
    answer = answer_of(events)._asdict()
    prefilled = [Prefilled(5 * i, 20, 0) for i in range(1, prefills + 1)]
    return [Started(id, 1_700_000_000_123), *prefilled, *events, ended(status, tokens=tokens, **answer)]


def final(of, facts):
    """The response at the end that ``of`` tells."""
    told = of.facts()
    return response_object(
        facts,
        of.status,
        answer=of.answer if of.output_tokens else None,
        usage=USAGE,
        receipt=told["cache"],
        timings=told["timings"],
        error={"code": of.error_code, "message": of.error_message} if of.error_code else None,
        completed_at=of.at,
    )
