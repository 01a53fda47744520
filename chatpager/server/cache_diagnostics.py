"""OpenAI's ``prompt_cache_diagnostics`` (openai-python 3.52 types), filled from the tokens themselves."""

from __future__ import annotations

from typing import Any

from chatpager.sessions.comparing import Compared
from chatpager.sessions.receipt import Receipt


def diagnostics(compared: Compared, receipt: Receipt | None) -> dict[str, Any]:
    """Whether a prompt used what the compared response's prompt left in the cache, and if not, why.

    OpenAI's reasons are changes of the request. What was lost for another reason (evicted, caching off) is
    "unavailable" here; the receipt in ``chatpager.cache`` tells it.
    """
    if not compared.found:
        return {"type": "comparison_response_not_found"}
    if receipt is None:
        return {"type": "unavailable"}
    reusable = compared.common_tokens
    if compared.same_model and compared.common_tokens == min(compared.earlier_tokens, receipt.prompt_tokens):
        most = min(reusable, receipt.prompt_tokens - 1)
        whole = most // receipt.block_size * receipt.block_size  # below the device there are only full blocks
        return {"type": "cache_hit" if receipt.cached_tokens >= whole else "unavailable"}
    return {
        "type": "cache_miss",
        "reason": "input_changed" if compared.same_model else "model_changed",
        "cache_missed_tokens": receipt.prompt_tokens - compared.common_tokens,
        "comparison_reusable_tokens": reusable,
    }
