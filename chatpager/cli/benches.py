"""``chatpager bench``: what there is to measure, on this machine or on a server that runs."""

from __future__ import annotations

from typing import Annotated

import typer

from chatpager.cli.cluster_benches import bench_hosts, bench_placement, bench_replicas
from chatpager.cli.load_benches import bench_chaos, bench_load
from chatpager.cli.peer_benches import SHAPES, bench_engine, bench_model, bench_serve, whole_numbers
from chatpager.cli.remote import Remote, on_server
from chatpager.cli.results import ResultFile
from chatpager.errors import ConfigError

bench_app = typer.Typer(
    help="Measure this machine, or a server that runs.",
    epilog="Example: chatpager bench turns --rounds 5",
    no_args_is_help=True,
)
bench_app.command("model", epilog="Example: chatpager bench model --shape 160m --out m160")(bench_model)
bench_app.command("serve", epilog="Example: chatpager bench serve --shape 15m --trial")(bench_serve)
bench_app.command("engine", epilog="Example: chatpager bench engine --batches 1,16 --contexts 2048")(bench_engine)
bench_app.command("load", epilog="Example: chatpager bench load --streams 100 --seconds 10")(bench_load)
bench_app.command("chaos", epilog="Example: chatpager bench chaos --only kill,cut --rounds 20")(bench_chaos)
bench_app.command("placement", epilog="Example: chatpager bench placement --replicas 2,10 --sessions 200")(
    bench_placement
)
bench_app.command("replicas", epilog="Example: chatpager bench replicas --sessions 48 --room 0.5")(bench_replicas)
bench_app.command("hosts", epilog="Example: chatpager bench hosts --fake --pace 50 --rounds 3")(bench_hosts)


@bench_app.command("turns", epilog="Example: chatpager bench turns --rounds 5")
def bench_turns(
    history: Annotated[int, typer.Option(help="tokens of history before the second turn")] = 2000,
    shape: Annotated[str, typer.Option(help=f"random-weight model: {SHAPES}")] = "100m",
    rounds: Annotated[int, typer.Option(help="measured sessions")] = 5,
    out: ResultFile = None,
) -> None:
    """Time to first token of a second turn against a cold one of the same length."""
    from chatpager.bench.turns import run

    run(history=history, shape=shape, rounds=rounds, out=out)


@bench_app.command("tiers", epilog="Example: chatpager bench tiers --tokens 8192 --rounds 1")
def bench_tiers(
    tokens: Annotated[int, typer.Option(help="tokens of history")] = 2000,
    shape: Annotated[str, typer.Option(help=f"random-weight model: {SHAPES}")] = "100m",
    rounds: Annotated[int, typer.Option(help="measured conversations")] = 3,
    out: ResultFile = None,
) -> None:
    """Time to first token of a turn whose history is on the device, in host memory, on disk, or nowhere."""
    from chatpager.bench.tiers import run

    run(tokens=tokens, shape=shape, rounds=rounds, out=out)


@bench_app.command("sessions", epilog="Example: chatpager bench sessions --trace agent --working-sets 1,2,4")
def bench_sessions(
    trace: Annotated[
        str, typer.Option(help="return: one after the other; agent: tools between; chat: people")
    ] = "return",
    sessions: Annotated[int, typer.Option(help="sessions that come back")] = 32,
    tokens: Annotated[int, typer.Option(help="tokens of each; return: when it first comes back")] = 1000,
    rounds: Annotated[int, typer.Option(help="turns of each session of the trace return")] = 3,
    working_sets: Annotated[
        str, typer.Option(help="all sessions' tokens in multiples of the device's room, comma separated: 1,2,4,8")
    ] = "2",
    shape: Annotated[str, typer.Option(help=f"random-weight model: {SHAPES}")] = "15m",
    out: ResultFile = None,
) -> None:
    """What sessions find in the cache when they come back, against caches that forget them."""
    from chatpager.bench.sessions import run

    try:
        multiples = [float(part) for part in working_sets.split(",")]
    except ValueError:
        raise ConfigError(
            "working_sets", "numbers with commas between them, such as 1,2,4,8", value=working_sets
        ) from None
    run(trace=trace, sessions=sessions, tokens=tokens, rounds=rounds, working_sets=multiples, shape=shape, out=out)


@bench_app.command("agents", epilog="Example: chatpager bench agents --only langgraph --rounds 2")
def bench_agents(
    only: Annotated[str | None, typer.Option(help="google-adk, openai-agents, langgraph; comma separated")] = None,
    head: Annotated[int, typer.Option(help="characters that all agents are told")] = 4000,
    answer: Annotated[int, typer.Option(help="tokens of each answer")] = 64,
    rounds: Annotated[int, typer.Option(help="measured pipelines of each kind")] = 3,
    out: ResultFile = None,
) -> None:
    """What agents who take turns find of each other's prompts, in the frameworks that are installed, with and without
    our helper."""
    from chatpager.bench.agents import run

    run(only=only.split(",") if only else None, head=head, answer=answer, rounds=rounds, out=out)


@bench_app.command("overhead", epilog="Example: chatpager bench overhead --shape 15m")
def bench_overhead(
    sequences: Annotated[int, typer.Option(help="sequences that decode at once")] = 256,
    steps: Annotated[int, typer.Option(help="measured steps")] = 50,
    shape: Annotated[str, typer.Option(help=f"random-weight model: {SHAPES}")] = "100m",
    out: ResultFile = None,
) -> None:
    """What the engine's own work takes of a step: scheduling, blocks, names, leases and outputs."""
    from chatpager.bench.overhead import run

    run(sequences=sequences, steps=steps, shape=shape, out=out)


@bench_app.command("offline", epilog="Example: chatpager bench offline --shape 15m --requests 16 --most 200")
def bench_offline(
    requests: Annotated[int, typer.Option(help="handed over at once")] = 256,
    least: Annotated[int, typer.Option(help="tokens of a prompt, and of an answer, at the least")] = 100,
    most: Annotated[int, typer.Option(help="the same at the most")] = 1024,
    plain: Annotated[int, typer.Option(help="requests that transformers' plain generate is given; 0: none")] = 4,
    at_once: Annotated[int, typer.Option(help="sequences of a step of ours at the most")] = 256,
    shape: Annotated[str, typer.Option(help=f"random-weight model: {SHAPES}")] = "qwen3-0.6b",
    dtype: Annotated[str, typer.Option(help="of weights and KV cache")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    peers: Annotated[bool, typer.Option(help="also transformers' continuous batching and generate")] = True,
    out: ResultFile = None,
) -> None:
    """Many requests at once, as an offline job: ours beside transformers' continuous batching and plain generate."""
    from chatpager.bench.offline import Options, run

    run(Options(requests, least, most, plain, at_once, shape, dtype, device, peers, out))


@bench_app.command("streams", epilog="Example: chatpager bench streams --streams 16 --shape 15m")
def bench_streams(
    streams: Annotated[int, typer.Option(help="WebSocket sessions at once")] = 64,
    prompt: Annotated[int, typer.Option(help="tokens in, of each")] = 256,
    answer: Annotated[int, typer.Option(help="tokens out, of each")] = 128,
    rounds: Annotated[int, typer.Option(help="rounds, each served and bare")] = 3,
    shape: Annotated[str, typer.Option(help=f"random-weight model: {SHAPES}")] = "100m",
    out: ResultFile = None,
) -> None:
    """What many WebSocket streams cost on top of the engine that computes them."""
    from chatpager.bench.streams import run

    run(streams=streams, prompt=prompt, answer=answer, rounds=rounds, shape=shape, out=out)


@bench_app.command("kernels", epilog="Example: chatpager bench kernels --dtype float32")
def bench_kernels(
    shape: Annotated[
        str | None, typer.Option(help="query heads/KV heads/dimension; default: 12/4/64, on a GPU 32/8/128")
    ] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
    most_tokens: Annotated[int, typer.Option(help="tokens of all rows of a call at most")] = 1 << 20,
    seconds: Annotated[float, typer.Option(help="of measuring each call, twice")] = 0.3,
    out: ResultFile = None,
) -> None:
    """Paged decode against the torch path it replaces, and as a share of what memory can be read at."""
    from chatpager.bench.kernels import run

    run(shape=shape, dtype=dtype, device=device, threads=threads, most_tokens=most_tokens, seconds=seconds, out=out)


@bench_app.command("linears", epilog="Example: chatpager bench linears --outputs 768 --inputs 3072 --rows 1,16,64")
def bench_linears(
    outputs: Annotated[int, typer.Option(help="rows of the weight")] = 6144,
    inputs: Annotated[int, typer.Option(help="columns of the weight")] = 768,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32")] = "bfloat16",
    rows: Annotated[str, typer.Option(help="tokens of a step, comma separated")] = "1,4,16,64,128,256,1024",
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
    rounds: Annotated[int, typer.Option(help="of all copies of the weight")] = 5,
    out: ResultFile = None,
) -> None:
    """A model's products on the CPU by torch, by oneDNN's packed weights where it has them, and by our kernel."""
    from chatpager.bench.linears import run

    counts = whole_numbers("rows", rows)
    run(outputs=outputs, inputs=inputs, dtype=dtype, rows=counts, threads=threads, rounds=rounds, out=out)


@bench_app.command("grammars", epilog="Example: chatpager bench grammars --rows 1,4")
def bench_grammars(
    rows: Annotated[str, typer.Option(help="sequences of a step, comma separated")] = "1,16",
    out: ResultFile = None,
) -> None:
    """What a grammar adds to the built-in model's steps, and to a first answer."""
    from chatpager.bench.grammars import run

    run(rows=whole_numbers("rows", rows), out=out)


@bench_app.command("seeds", epilog="Example: chatpager bench seeds --only waste,long --quick")
def bench_seeds(
    only: Annotated[str | None, typer.Option(help="rows to measure, comma separated, such as waste,long")] = None,
    quick: Annotated[bool, typer.Option(help="small sizes: to see that it runs, not for figures")] = False,
    shape: Annotated[str, typer.Option(help=f"random-weight model: {SHAPES}")] = "15m",
    out: ResultFile = None,
) -> None:
    """The figures that texts about PagedAttention give, beside ours and those of static batching in the same memory."""
    from chatpager.bench.seeds import run

    run(shape=shape, only=only.split(",") if only else None, quick=quick, out=out)


@bench_app.command("isolation", epilog="Example: chatpager bench isolation --probes 100")
def bench_isolation(
    probes: Annotated[int, typer.Option(help="timed prompts across tenants, and as many within one")] = 400,
    tokens: Annotated[int, typer.Option(help="tokens of each prompt")] = 512,
    shape: Annotated[str, typer.Option(help=f"random-weight model: {SHAPES}")] = "15m",
    out: ResultFile = None,
) -> None:
    """Whether the time to a first token tells what another tenant has asked.

    Fails if a prompt of one tenant finds blocks of another.
    """
    from chatpager.bench.isolation import run

    run(probes=probes, tokens=tokens, shape=shape, out=out)


@bench_app.command("flood", epilog="Example: chatpager bench flood --factor 1.2")
@on_server
def bench_flood(
    server: Remote,
    tokens: Annotated[int, typer.Option(help="tokens of a conversation's first message")] = 1000,
    factor: Annotated[float, typer.Option(help="tokens of the flood, in what the device has room for")] = 1.5,
    seed: Annotated[int, typer.Option(help="of the made-up texts")] = 0,
    out: ResultFile = None,
) -> None:
    """Flood a running server between two turns of three conversations and print their receipts.

    One is pinned, one left as it is, and of one the leases are let go. Fails if a receipt does not add up or the
    pinned one lost a block. Deletes what it made.
    """
    from chatpager.bench.flood import run

    server.call(lambda client: run(client, tokens=tokens, factor=factor, seed=seed, out=out))
