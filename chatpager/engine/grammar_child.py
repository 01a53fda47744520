"""A process of its own that compiles grammars before the server does, so that what kills it kills nothing else.

llguidance walks references, rules and terminals by recursion: a chain of some thousands of them, flat as text,
overflows the stack, which no Python can catch. Others take minutes, or all memory. Here the stack is small and time and
memory are bounded, by signals whose default is death; see ``grammar_probe`` for the parent's side. Run as a file: it
imports nothing of chatpager, and starts in tenths of a second.

Lines of JSON come in: first what ``vocabulary`` takes, then [kind, text] of each grammar. One dot goes out for each
grammar that was survived, whether or not it can be followed. The argument is how many seconds of processor time one
may take.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

STACK = 2 << 20
"""Bytes. Enough for chains of a few hundred."""
MEMORY = 4 << 30
"""Bytes of addresses, all in all."""
LEXER_STATES = 25_000
"""Of one sequence; a kilobyte or two each."""


def vocabulary(tokenizer: str, width: int, ends: list[int]) -> LLTokenizer:
    from llguidance import LLTokenizer

    return LLTokenizer(tokenizer, n_vocab=width, eos_token=ends)


def matcher(tokens: LLTokenizer, kind: str, text: str) -> LLMatcher:
    """Of a schema with llguidance's options in it, an expression, or Lark. It may have failed.

    Raises ValueError or RecursionError: it is no grammar.
    """
    from llguidance import LLMatcher, regex_to_lark

    match kind:
        case "json_schema":
            source = LLMatcher.grammar_from_json_schema(text)
        case "regex":
            source = LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(text, 'dw')}/")
        case _:
            source = LLMatcher.grammar_from_lark(text)
    made = LLMatcher(tokens, source, log_level=0, limits=_limits())
    if not made.is_error():
        made.compute_bitmask()  # what is found for the first token every copy has then
    return made


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=LEXER_STATES, verbose_errors=False)


def _serve(lines: TextIO, replies: TextIO, seconds: float) -> None:
    tokens = vocabulary(*json.loads(lines.readline()))
    for line in lines:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        kind, text = json.loads(line)
        with suppress(ValueError, RecursionError):  # the parent finds the same, and says it
            matcher(tokens, kind, text)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(".", file=replies, flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK)
    worker = threading.Thread(target=_serve, args=(sys.stdin, sys.stdout, float(sys.argv[1])))
    worker.start()
    worker.join()
