"""``chatpager bench serve`` and ``bench model``: other servers beside this one, on a model that needs no download."""

from __future__ import annotations

from typing import Annotated

import typer

from chatpager.cli.results import ResultFile, writable
from chatpager.errors import ConfigError

SHAPES = "15m, 100m, llama-15m, 160m, 500m, qwen3-0.6b or llama-8b"


def bench_model(
    out: Annotated[str, typer.Option(help="the folder to write: a new or an empty one")],
    shape: Annotated[str, typer.Option(help=SHAPES)] = "160m",
    seed: Annotated[int, typer.Option(help="of the weights: the same gives the same bytes", min=0)] = 1234,
) -> None:
    """Write a model of random weights, with tokenizer and chat template: for measuring speed without a download.

    [bold]15m[/bold] and [bold]100m[/bold] are the small Llamas that the other measurements use; [bold]llama-15m[/bold],
    [bold]160m[/bold] (Qwen3) and [bold]500m[/bold] (Qwen2) are shapes to compare servers on; [bold]qwen3-0.6b[/bold]
    and [bold]llama-8b[/bold] (16 GB) are shaped as published. The folder names no end of answers, so answers have the
    length that was asked for.
    """
    from pathlib import Path

    from chatpager.bench.models import make_model

    parameters = make_model(shape, Path(out).expanduser(), seed=seed)
    typer.echo(f"{out}: {parameters / 1e6:,.1f} million parameters, bf16")


def bench_engine(
    shape: Annotated[str, typer.Option(help=f"random-weight model: {SHAPES}")] = "160m",
    batches: Annotated[str, typer.Option(help="sequences of a step, comma separated")] = "1,4,16,64,256",
    contexts: Annotated[str, typer.Option(help="tokens of each, comma separated")] = "128,2048",
    steps: Annotated[int, typer.Option(help="timed steps of each kind")] = 10,
    step_tokens: Annotated[int, typer.Option(help="prompt tokens of a step at the most")] = 8192,
    kv_gib: Annotated[float, typer.Option(help="memory for contexts at the most, in GiB")] = 4.0,
    dtype: Annotated[str, typer.Option(help="of weights and KV cache; auto: the model's, bfloat16")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    out: ResultFile = None,
) -> None:
    """Steps of the model against the least time that this machine's memory and arithmetic allow them.

    The ceilings are measured first, in the same process. Beside them: what the engine's own work adds to a decode step.
    """
    from chatpager.bench.steps import Options, run

    run(
        Options(
            shape=shape,
            batches=whole_numbers("batches", batches),
            contexts=whole_numbers("contexts", contexts),
            steps=steps,
            step_tokens=step_tokens,
            kv_gib=kv_gib,
            dtype=dtype,
            device=device,
            out=out,
        )
    )


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(name, "whole numbers with commas between them, such as 1,4,16", value=text) from None


def bench_serve(
    url: Annotated[
        list[str] | None, typer.Option(help="NAME=http://HOST:PORT of a server that runs; may be repeated")
    ] = None,
    start: Annotated[
        list[str] | None, typer.Option(help="NAME='COMMAND with {port} and {model}' to start; may be repeated")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="single, concurrency, growing, shared or returning; may be repeated; default: all"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="model folder that is served; default: a random one of --shape")
    ] = None,
    shape: Annotated[str, typer.Option(help=f"random-weight model: {SHAPES}")] = "160m",
    rounds: Annotated[int, typer.Option(help="of everything; figures are medians over them")] = 3,
    without_self: Annotated[bool, typer.Option("--without-self", help="leave chatpager itself out")] = False,
    self_flags: Annotated[str, typer.Option(help="flags of `chatpager serve` for its own column, in quotes")] = "",
    one_at_a_time: Annotated[
        bool,
        typer.Option("--one-at-a-time", help="start each server anew for its part of a round: on a GPU two do not fit"),
    ] = False,
    start_seconds: Annotated[float, typer.Option(help="time a server has to start")] = 600.0,
    api_key: Annotated[str | None, typer.Option(help="key of the servers of --url")] = None,
    seed: Annotated[int | None, typer.Option(help="of the prompts; default: new ones each run")] = None,
    trial: Annotated[bool, typer.Option("--trial", help="few and short requests: does it all work?")] = False,
    out: Annotated[
        str | None,
        typer.Option(help="write the figures to this .json file; a page and the logs go beside it", callback=writable),
    ] = None,
) -> None:
    """Measure OpenAI-compatible servers side by side: on the same prompts, with chatpager as one of the columns.

    [bold]single[/bold] is one stream's decoding; [bold]concurrency[/bold] 1, 4, 16 and 64 requests at once;
    [bold]growing[/bold] a conversation of 8 turns up to 4k tokens; [bold]shared[/bold] 16 users behind one system
    prompt; [bold]returning[/bold] 32 sessions that come back. Servers take turns within each round.

    Nothing is installed: a server's command line is yours. It is run as it stands, without a shell, and its output goes
    to a file beside the results. An example, with vLLM and llama.cpp against chatpager:

    chatpager bench model --shape 160m --out m160

    python convert_hf_to_gguf.py m160 --outtype bf16 --outfile m160.gguf

    chatpager bench serve --model m160 --out compared.json
    --start 'vllm=vllm serve {model} --port {port} --dtype bfloat16 --max-model-len 8192 --enable-prompt-tokens-details'
    --start 'llama=llama-server -m m160.gguf --port {port} --jinja -np 64 --no-kv-unified -c 98304'

    Variables are set with env: --start 'mine=env OMP_NUM_THREADS=2 my-server --port {port}'. First try the same line
    with --trial.
    """
    from chatpager.bench.serve import Options, run

    run(
        Options(
            url=tuple(url or ()),
            start=tuple(start or ()),
            only=tuple(only or ()),
            without_self=without_self,
            self_flags=self_flags,
            model=model,
            shape=shape,
            rounds=rounds,
            one_at_a_time=one_at_a_time,
            start_seconds=start_seconds,
            api_key=api_key,
            seed=seed,
            trial=trial,
            out=out,
        )
    )
