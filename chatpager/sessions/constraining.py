"""Grammars of turns, compiled off the event loop and off the engine's thread before anything is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace

import msgspec

from chatpager.engine.call_grammar import CallRule, arguments_schema, call_grammar
from chatpager.engine.call_writing import CallWriting
from chatpager.engine.engine import Engine
from chatpager.engine.grammar import Grammar, schema_grammar
from chatpager.engine.grammar_compiler import Compiled, GrammarCompiler, Known
from chatpager.engine.grammar_probe import Probe, deep_stacks
from chatpager.engine.tokenizer import Tokenizer
from chatpager.engine.tool_calls import Tool
from chatpager.errors import InvalidRequest, Overloaded
from chatpager.sessions.fair_queue import FairQueue
from chatpager.sessions.turn_request import TurnRequest

SECONDS = 10.0
"""A grammar that takes longer is refused, and so is one that waits longer. What compiles it bounds its own work to
about one."""
MAX_WAITING = 32
"""Different grammars of one tenant that wait for their turn."""
UNRESTRICTED = "calls in the form of this model cannot be restricted yet"
Prepared = tuple[TurnRequest, Compiled | None]


class Constraining:
    """``open`` it once the model is there. ``seconds``: see ``SECONDS``."""

    def __init__(self, tokenizer: Tokenizer, *, seconds: float = SECONDS) -> None:
        self._tokenizer = tokenizer
        self._seconds = seconds
        self.probe = Probe()
        self._compiler: GrammarCompiler | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chatpager-grammar")
        self._queue = FairQueue(MAX_WAITING)
        self._shares: dict[object, asyncio.Task[Prepared]] = {}
        """What waits or is being compiled, by all that its result depends on."""

    def open(self, vocab_size: int, eos_token_ids: Collection[int]) -> GrammarCompiler:
        """The compiler for a model with logits so wide whose answers end with these tokens: made once."""
        if self._compiler is None:
            self._compiler = GrammarCompiler(
                self._tokenizer, vocab_size=vocab_size, eos_token_ids=eos_token_ids, probe=self.probe
            )
        return self._compiler

    def shared_with(self, build: Callable[[], Engine]) -> Callable[[], Engine]:
        """What ``build`` makes in this process finds compiled what was compiled here."""

        def built() -> Engine:
            engine = build()
            engine.grammars = self.open(engine.runner.vocab_size, engine.runner.eos_token_ids)
            return engine

        return built

    @property
    def compiler(self) -> GrammarCompiler:
        assert self._compiler is not None, "the model is not there yet"
        return self._compiler

    async def prepare(self, request: TurnRequest, salt: bytes) -> Prepared:
        """The request with the one grammar of its answer, and that compiled in the tenant's domain, which is to be held
        until the engine has it.

        Raises:
            InvalidRequest: with the field that it came from; or it took too long.
            Overloaded: others' grammars did.
            RateLimited: too many of the tenant's own wait.
        """
        rule = request.call_rule
        if not request.generate or (request.params.grammar is None and not (rule and rule.asks)):
            return request, None
        try:
            return self._prepare(request, salt, Known(self.compiler))
        except LookupError:
            made, compiled = await asyncio.shield(self._shared(request, salt))
        params = msgspec.structs.replace(request.params, grammar=made.params.grammar)
        return replace(request, params=params, may_think=made.may_think), compiled

    def _shared(self, request: TurnRequest, salt: bytes) -> asyncio.Task[Prepared]:
        """One for all requests with the same grammar; it goes on when those who wait for it have left."""
        rule = msgspec.json.encode(request.call_rule)
        what = (request.tenant, salt, request.params.grammar, rule, request.grammar_field)
        if (task := self._shares.get(what)) is None:
            task = self._shares[what] = asyncio.get_running_loop().create_task(self._in_turn(request, salt))

            def ended(task: asyncio.Task[Prepared]) -> None:
                del self._shares[what]
                if not task.cancelled():
                    task.exception()  # nobody may be there to hear of it

            task.add_done_callback(ended)
        return task

    async def _in_turn(self, request: TurnRequest, salt: bytes) -> Prepared:
        try:
            async with asyncio.timeout(self._seconds):
                await self._queue.enter(request.tenant)
        except TimeoutError:
            raise Overloaded("other requests' grammars are being compiled; try again later") from None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._submit(request, salt)), self._seconds)
        except TimeoutError:
            problem = f"it takes more than {self._seconds:g} s to compile; make it smaller"
            raise InvalidRequest(f"{request.grammar_field}: {problem}", param=request.grammar_field) from None

    def _submit(self, request: TurnRequest, salt: bytes) -> Future[Prepared]:
        """The thread's work. The queue goes on when that has ended, whoever waits for it."""
        with deep_stacks():  # the thread begins with its first work
            work = self._thread.submit(self._prepare, request, salt, self.compiler)
        loop = asyncio.get_running_loop()

        def ended(work: Future[Prepared]) -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._queue.leave)

        work.add_done_callback(ended)
        return work

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.probe.close()

    # -- inside the thread --------------------------------------------------------------------------------------------

    def _prepare(self, request: TurnRequest, salt: bytes, compiler: GrammarCompiler | Known) -> Prepared:
        rule, answer = request.call_rule, request.params.grammar
        if rule is None:
            assert answer is not None, "prepare looks for something to do"
            return replace(request, may_think=False), _compile(compiler, answer, salt, request.grammar_field)
        writing, unseen = self._tokenizer.call_writing, self._tokenizer.closes_thoughts_unseen
        if writing is None or (unseen and answer is None and not rule.chosen):
            return _unrestricted(request, rule), None
        try:
            grammar = call_grammar(writing, rule, answer)
            compiled = compiler.compile(grammar, salt)
        except InvalidRequest:
            if answer is not None:
                _check(compiler, answer, salt, request.grammar_field)
            with _named("tools"):
                grammar = call_grammar(writing, _followed(compiler, writing, rule, salt), answer)
                compiled = compiler.compile(grammar, salt)
        params = msgspec.structs.replace(request.params, grammar=grammar)
        return replace(request, params=params, may_think=answer is None and not rule.must and not unseen), compiled


def _followed(compiler: GrammarCompiler | Known, writing: CallWriting, rule: CallRule, salt: bytes) -> CallRule:
    """Without the schemas that cannot be followed; their tools' arguments are any object."""
    tools: list[Tool] = []
    for tool in rule.tools:
        try:
            alone = CallRule(tools=[tool], must=True)
            called = call_grammar(writing, alone) if writing.parameters else None
            compiler.check(called or schema_grammar(arguments_schema(tool)), salt)
        except InvalidRequest as error:
            if tool.name in rule.strict:
                why = error.message.removeprefix("grammar: ")
                problem = f"tools: the parameters of {tool.name} are strict and cannot be followed: {why}"
                raise InvalidRequest(problem, param="tools") from error
            tool = msgspec.structs.replace(tool, parameters=None)
        tools.append(tool)
    return msgspec.structs.replace(rule, tools=tools)


def _check(compiler: GrammarCompiler | Known, grammar: Grammar, salt: bytes, field: str) -> None:
    with _named(field):
        compiler.check(grammar, salt)


def _compile(compiler: GrammarCompiler | Known, grammar: Grammar, salt: bytes, field: str) -> Compiled:
    with _named(field):
        return compiler.compile(grammar, salt)


@contextmanager
def _named(field: str) -> Iterator[None]:
    """A refusal names the request's field."""
    try:
        yield
    except InvalidRequest as error:
        if error.param != "grammar":  # it names one itself
            raise
        raise InvalidRequest(f"{field}: {error.message.removeprefix('grammar: ')}", param=field) from error


def _unrestricted(request: TurnRequest, rule: CallRule) -> TurnRequest:
    """For a model whose calls cannot be restricted: what can be passed over is, and the response says so."""
    if rule.chosen:
        raise InvalidRequest(f"tool_choice: {UNRESTRICTED}; only auto and none are taken", param="tool_choice")
    if request.params.grammar is not None:
        field = request.grammar_field
        raise InvalidRequest(f"{field}: {UNRESTRICTED}; leave the tools out, or say tool_choice: none", param=field)
    warnings = [*request.parameters.get("warnings", []), f"strict, parallel_tool_calls: not enforced, {UNRESTRICTED}"]
    return replace(request, parameters={**request.parameters, "warnings": warnings})
