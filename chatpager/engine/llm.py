"""The offline face: ``LLM(model=...).generate(prompts, sampling_params)``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from tqdm import tqdm

from chatpager.config import EngineConfig
from chatpager.config_values import check_engine
from chatpager.engine.beam_search import Beam, BeamSearchParams, beam_search
from chatpager.engine.chat_template import ChatMessage, ChatTemplate
from chatpager.engine.detokenizer import TextStream
from chatpager.engine.engine import Engine
from chatpager.engine.grammar_compiler import GrammarCompiler
from chatpager.engine.messages import AddRequest, FinishReason, SampledLogprobs, StepOutput, Usage
from chatpager.engine.model_digest import require_digest
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.split_runner import open_runner
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import EngineError, InvalidRequest, StepFailed

Prompt = str | Sequence[int] | Sequence[dict[str, Any]]
"""Text, token ids, or chat messages (dictionaries with ``role`` and ``content``)."""


@dataclass
class CompletionOutput:
    """One answer. ``finish_reason`` is "stop", "length" or, when its step failed, "error"; then ``error`` says why."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | None = None
    """The stop string that ended the text, if one did."""
    logprobs: list[SampledLogprobs] | None = None
    error: str | None = None
    score: float | None = None
    """Of beam search: its log-probability over its length to the power of the length penalty."""


@dataclass
class RequestOutput:
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    usage: Usage | None = None
    """Counts the prompt once and the tokens of every answer; ``committed_tokens`` is the longest one's."""


class LLM:
    """A model and its engine. The arguments are the settings of ``EngineConfig`` and mean what vLLM's users expect.

    Raises:
        ConfigError: an argument is wrong, or not supported yet.
        ModelLoadError, UnsupportedModel: the folder cannot be served.
    """

    def __init__(self, model: str | Path, **settings: Any) -> None:
        config = check_engine(EngineConfig(model=str(model), step_seconds=0.0), settings)  # nobody waits for a token
        require_digest(Path(config.model), config.model_sha256)
        self.runner = open_runner(config)
        self.engine = Engine(config, self.runner)
        self._requests = 0

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Loaded when first needed: prompts of token ids need none."""
        return Tokenizer(Path(self.engine.config.model))

    @cached_property
    def chat_template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete every prompt, batched; outputs are in the order of the prompts. ``use_tqdm`` shows the progress bar.

        Raises:
            InvalidRequest, ContextLengthExceeded, CapacityExceeded: a prompt or its parameters; nothing was started.
        """
        batch = _as_batch(prompts)
        per_prompt = _as_params(sampling_params, len(batch))
        works = [self._prepare(prompt, p) for prompt, p in zip(batch, per_prompt, strict=True)]
        self._start(works)
        with tqdm(total=len(works), desc="generating", unit="prompt", disable=not use_tqdm) as progress:
            self._drain({w.request_id: w for w in works}, progress)
        return [w.output for w in works]

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams, *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        """The likeliest answers as a whole to every prompt, ``params.beam_width`` of them, the best first.

        Raises:
            InvalidRequest, ContextLengthExceeded, CapacityExceeded: a prompt or the parameters.
            StepFailed: the model failed on a beam.
        """
        end_ids = self.runner.eos_token_ids
        found = []
        for prompt in tqdm(_as_batch(prompts), desc="searching", unit="prompt", disable=not use_tqdm):
            text, ids = self._tokenize(prompt)
            beams = beam_search(ids, params, end_ids, self._likeliest)
            found.append(RequestOutput(text, ids, [self._beam_output(i, beam) for i, beam in enumerate(beams)]))
        return found

    def _likeliest(self, sequences: Sequence[Sequence[int]], count: int) -> list[list[tuple[int, float]]]:
        """The ``count`` likeliest next tokens of each sequence and their log-probabilities, in one batch."""
        one = SamplingParams(temperature=0.0, max_tokens=1, logprobs=count, ignore_eos=True)
        answers = [out.outputs[0] for out in self.generate(list(sequences), one, use_tqdm=False)]
        failed = next((answer.error for answer in answers if answer.error), None)
        if failed:
            raise StepFailed(failed)
        return [[(t.token_id, t.logprob) for t in (answer.logprobs or [])[0].top] for answer in answers]

    def _beam_output(self, index: int, beam: Beam) -> CompletionOutput:
        ids = beam.token_ids[:-1] if beam.ended else beam.token_ids
        text = self.tokenizer.decode(ids) if self._has_tokenizer() else ""
        reason = FinishReason.STOP if beam.ended else FinishReason.LENGTH
        return CompletionOutput(index, text, beam.token_ids, reason.value, score=beam.score)

    # -- one batch ----------------------------------------------------------------------------------------------------

    def _prepare(self, prompt: Prompt, params: SamplingParams) -> _Work:
        text, ids = self._tokenize(prompt)
        if params.stop and not self._has_tokenizer():
            raise InvalidRequest("stop strings need the model's tokenizer, and its folder has none", param="stop")
        if params.grammar and self.engine.grammars is None and self._has_tokenizer():
            self.engine.grammars = GrammarCompiler(
                self.tokenizer, vocab_size=self.runner.vocab_size, eos_token_ids=self.runner.eos_token_ids
            )
        self._requests += 1
        outputs = [CompletionOutput(i, logprobs=[] if params.logprobs is not None else None) for i in range(params.n)]
        streams = [self.tokenizer.text_stream(params) for _ in outputs] if self._has_tokenizer() else []
        request = AddRequest(request_id=f"offline-{self._requests}", prompt_token_ids=ids, params=params)
        return _Work(request, RequestOutput(text, ids, outputs), streams)

    def _tokenize(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        if isinstance(prompt, str):
            return prompt, self.tokenizer.encode(prompt, add_special_tokens=True)
        items = list(prompt)
        if items and all(isinstance(item, dict) for item in items):
            ids = self.chat_template.prompt([_message(item) for item in items]).token_ids
            return self.tokenizer.decode(ids, skip_special_tokens=False), ids
        if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            return None, items  # type: ignore[return-value]
        raise InvalidRequest("a prompt is text, a list of token ids, or a list of chat messages", param="prompts")

    def _has_tokenizer(self) -> bool:
        return (Path(self.engine.config.model) / "tokenizer.json").is_file()

    def _start(self, works: list[_Work]) -> None:
        started: list[str] = []
        try:
            for work in works:
                self.engine.add(work.request, time.monotonic())
                started.append(work.request_id)
        except Exception:
            for request_id in started:
                self.engine.cancel(request_id)
            self.engine.step(time.monotonic)
            raise

    def _drain(self, works: dict[str, _Work], progress: tqdm[NoReturn]) -> None:
        try:
            while any(not w.done for w in works.values()):
                for output in self.engine.step(time.monotonic):
                    work = works.get(output.request_id)  # None: left over from a batch that was interrupted
                    if work and work.take(output):
                        work.account(output.index, self.engine.stop(output.request_id, output.index))
                progress.update(sum(w.done for w in works.values()) - progress.n)
        finally:
            for work in works.values():
                if not work.done:
                    self.engine.cancel(work.request_id)
            self.engine.land()


class _Work:
    """One prompt on its way through the engine."""

    def __init__(self, request: AddRequest, output: RequestOutput, streams: list[TextStream]) -> None:
        self.request = request
        self.output = output
        self._streams = streams
        self._usages: dict[int, Usage] = {}

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def done(self) -> bool:
        return all(o.finish_reason for o in self.output.outputs)

    def take(self, step: StepOutput) -> bool:
        """Record what a step brought; True when a stop string ended the answer before the engine did."""
        answer = self.output.outputs[step.index]
        self.account(step.index, step.usage)
        for token_id in step.token_ids:
            answer.token_ids.append(token_id)
            if self._streams:
                answer.text += self._streams[step.index].push(token_id)
        if step.logprobs and answer.logprobs is not None:
            answer.logprobs += step.logprobs
        if step.finish_reason and self._streams:
            answer.text += self._streams[step.index].finish()
        stop = self._streams[step.index].stopped if self._streams else None
        if stop is not None:
            answer.finish_reason, answer.stop_reason = FinishReason.STOP.value, stop
            return step.finish_reason is None
        if step.finish_reason:
            answer.finish_reason, answer.error = step.finish_reason.value, step.error_message
        return False

    def account(self, index: int, usage: Usage | None) -> None:
        """Add what the engine says of one answer, if it says something."""
        if usage is None:
            return
        self._usages[index] = usage
        each = self._usages.values()
        self.output.usage = msgspec.structs.replace(
            self._usages[0],
            output_tokens=sum(u.output_tokens for u in each),
            preemptions=sum(u.preemptions for u in each),
            committed_tokens=max(u.committed_tokens for u in each),
        )


def _message(item: Any) -> ChatMessage:
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise InvalidRequest("a chat message has a role and a content, both text", param="prompts")
    return ChatMessage(role, content)


def _as_batch(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several: a string, a list of ids and a list of messages are each one prompt."""
    if isinstance(prompts, str):
        return [prompts]
    items = list(prompts)
    if items and all(isinstance(item, int | dict) for item in items):
        return [items]  # type: ignore[list-item]
    return items  # type: ignore[return-value]


def _as_params(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None:
        return [SamplingParams()] * count
    if isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise InvalidRequest(f"{len(params)} sampling parameters for {count} prompts", param="sampling_params")
    return list(params)


__all__ = ["LLM", "CompletionOutput", "EngineError", "RequestOutput", "StepFailed"]
