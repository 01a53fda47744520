"""An engine in a process of its own, started by a server: ``python -m chatpager.cli.engine_child``."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatpager.engine.engine import Engine


def main(arguments: list[str]) -> None:
    """``arguments``: what ``sessions.engine_child.live`` takes."""
    from chatpager.engine import freed_memory, lean_imports

    gc.disable()  # until all is loaded, as in a server
    freed_memory.share_heap()
    lean_imports.link_ahead()
    lean_imports.prepare()
    from chatpager.cli.leaving import leave
    from chatpager.sessions.engine_child import live

    live(build, arguments)
    leave(0)


def build(settings: bytes) -> Engine:
    """``settings``: ``ChildSettings``."""
    from pathlib import Path

    import msgspec

    from chatpager.cli.engines import ChildSettings, settle_memory
    from chatpager.cli.logs import set_up_logs
    from chatpager.engine.grammar_compiler import GrammarCompiler
    from chatpager.engine.tokenizer import Tokenizer

    told = msgspec.msgpack.decode(settings, type=ChildSettings)
    set_up_logs(told.log_format)
    engine = told.maker.build()
    # What comes was compiled by the server, after a child of its own had survived it.
    engine.grammars = GrammarCompiler(
        Tokenizer(Path(told.maker.config.model)),
        vocab_size=engine.runner.vocab_size,
        eos_token_ids=engine.runner.eos_token_ids,
    )
    settle_memory()
    return engine


if __name__ == "__main__":
    main(sys.argv[1:])
