"""What never changes about an engine, for those who have no part in it."""

from __future__ import annotations

import msgspec

from chatpager.engine.engine import Engine


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """``num_blocks`` are those that can be used, of ``block_size`` tokens; ``max_num_seqs`` sequences fit one step.
    ``warm_fraction`` and ``fingerprint`` are ``Engine``'s; ``is_fake``: no model answers."""

    max_model_len: int
    block_size: int
    num_blocks: int
    max_num_seqs: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    caching: bool
    is_fake: bool
    fingerprint: str
    warm_fraction: float | None


def facts_of(engine: Engine) -> EngineFacts:
    config, runner = engine.config, engine.runner
    return EngineFacts(
        max_model_len=runner.max_model_len,
        block_size=config.block_size,
        num_blocks=engine.pool.usable,
        max_num_seqs=engine.scheduler.limits.max_num_seqs,
        vocab_size=runner.vocab_size,
        eos_token_ids=frozenset(runner.eos_token_ids),
        caching=config.enable_prefix_caching,
        is_fake=config.engine == "fake",
        fingerprint=engine.fingerprint,
        warm_fraction=engine.warm_fraction,
    )
