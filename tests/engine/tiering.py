"""What the tests of the lower tiers share: a long prompt, a flood, a crash, and where a prompt came from."""

from tests.engine.fakes import answer

LONG = list(range(100, 140))
"""Ten blocks."""


def flood(engine, count=6, name="flood"):
    """Other sessions push everything out that nobody holds."""
    for i in range(count):
        start = 300 + 50 * i
        answer(engine, f"{name}{i}", range(start, start + 40), 1, owner=f"{name}{i}")


def crash(tier):
    """The process of a disk tier ends here: what waited to be written is not, and the folder may be taken again."""
    with tier._lock:
        tier._jobs._queue.clear()
    tier.close()


def sources(final):
    usage = final.usage
    return usage.cached_tokens - usage.host_tokens - usage.disk_tokens, usage.host_tokens, usage.disk_tokens
