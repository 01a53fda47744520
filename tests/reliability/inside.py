"""What no answer may tell: places on the disk and in memory, statements, names of what the server is made of."""

import re

MODULES = (
    "aiohttp|aiosqlite|alembic|asyncio|asyncpg|jinja2|llguidance|msgspec|multidict|numpy|pydantic|safetensors|"
    "sqlalchemy|sqlite3|structlog|tokenizers|torch|transformers|triton|websockets|xxhash|yarl"
)
OURS = "cli|client|config|demo|engine|errors|kernels|server|sessions|store"
"""Other names behind ours are of fields on the wire."""
INSIDE = re.compile(
    rf"""Traceback|File\ "|\bobject\ at\b|<class\b|<(?:function|bound|built-in)\b
    |\b0x[0-9a-fA-F]{{6,}}
    |(?<![\w.])/(?:home|root|tmp|usr|var|opt|etc|proc|srv)/
    |\bsite-packages\b|\.py\b|\.so\b|\.db\b
    |\b(?:{MODULES})\.[a-z_]\w*
    |\bchatpager\.(?:{OURS})\b
    |\b(?:SELECT|INSERT\ INTO|UPDATE|DELETE\ FROM|CREATE\ TABLE)\s+\S+
    |\b[A-Z]\w*(?:Error|Exception)\b|\bErrno\b""",
    re.VERBOSE,
)


def told_inside(body):
    """The first such place in an answer, or None."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    found = INSIDE.search(text)
    return text[max(0, found.start() - 40) : found.end() + 40] if found else None
