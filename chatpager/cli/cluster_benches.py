"""``chatpager bench placement``, ``replicas`` and ``hosts``: several engines, and engines that are elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from chatpager.cli.peer_benches import whole_numbers
from chatpager.cli.results import ResultFile

OF_ENGINE = "of a replica, as measured in bench/results/engine-160m-avx512-2026-11-30.json"


def bench_placement(
    replicas: Annotated[
        str, typer.Option(help="clusters to simulate, comma separated; 1,000 at most")
    ] = "2,10,100,1000",
    sessions: Annotated[int, typer.Option(help="sessions for each replica; a million in all at most")] = 1000,
    load: Annotated[float, typer.Option(help="work of the cluster's time, if all that is attainable were found")] = 0.6,
    turns: Annotated[float, typer.Option(help="of a session, on average")] = 5.0,
    prefix: Annotated[int, typer.Option(help="tokens of each shared prefix")] = 1024,
    message: Annotated[int, typer.Option(help="tokens of a message, on average")] = 64,
    answer: Annotated[int, typer.Option(help="tokens of an answer, on average")] = 64,
    pause: Annotated[float, typer.Option(help="seconds between an answer and the next message, on average")] = 30.0,
    groups: Annotated[int, typer.Option(help="shared prefixes for each replica")] = 10,
    grouped: Annotated[float, typer.Option(help="share of sessions that begins with one of them")] = 0.7,
    prefill: Annotated[float, typer.Option(help=f"tokens/s of prompts {OF_ENGINE}")] = 972.7,
    decode: Annotated[float, typer.Option(help=f"tokens/s of answers {OF_ENGINE}")] = 694.5,
    room: Annotated[int, typer.Option(help="tokens that a replica's cache holds")] = 262_144,
    front_ends: Annotated[int, typer.Option(help="front ends that place turns and do not talk")] = 4,
    refresh: Annotated[float, typer.Option(help="seconds between two looks of a front end at the queues")] = 2.0,
    factor: Annotated[float, typer.Option(help="of its share of all load, beyond which a replica hands on")] = 1.25,
    lease: Annotated[float, typer.Option(help="seconds that a session stays where it was placed; 0: none")] = 300.0,
    seed: Annotated[int, typer.Option(help="of all that is drawn")] = 0,
    trial: Annotated[
        bool, typer.Option("--trial", help="2 and 4 replicas and few sessions: does it all work?")
    ] = False,
    out: ResultFile = None,
) -> None:
    """Simulate sessions on up to 1,000 replicas: placed by our code, in rotation, or where least is queued.

    Events, not machines: what is assumed is printed with the figures. [bold]placement[/bold] is the code that a front
    end runs (sessions/placement.py), [bold]hash alone[/bold] the same without a bound on
    load; [bold]kept[/bold] sessions stay where they began. A million sessions take some minutes on one core.
    """
    from chatpager.bench.clusters import Load
    from chatpager.bench.placement import run
    from chatpager.sessions.placement import Policy

    run(
        Load(
            replicas=0,
            sessions_each=sessions,
            load=load,
            turns=turns,
            prefix=prefix,
            message=message,
            answer=answer,
            pause=pause,
            groups=groups,
            grouped=grouped,
            prefill=prefill,
            decode=decode,
            room=room,
            front_ends=front_ends,
            refresh=refresh,
            seed=seed,
        ),
        replicas=whole_numbers("replicas", replicas),
        policy=Policy(factor=factor, lease=lease),
        trial=trial,
        out=out,
    )


def bench_replicas(
    replicas: Annotated[int, typer.Option(help="engines beside the one that they are compared with")] = 2,
    sessions: Annotated[int, typer.Option(help="agents")] = 24,
    tokens: Annotated[
        int, typer.Option(help="tokens of each agent at its end; half of them are there at first")
    ] = 2000,
    heads: Annotated[int, typer.Option(help="published prompts, of which each agent begins with one")] = 4,
    shared: Annotated[int, typer.Option(help="tokens of each of them")] = 256,
    at_once: Annotated[int, typer.Option(help="turns that are queued together")] = 8,
    room: Annotated[float, typer.Option(help="what one engine's cache holds, of all agents' tokens")] = 1.0,
    out: ResultFile = None,
) -> None:
    """What agents find again behind several engines, placed as a server places them and in rotation.

    Engines, caches and placement are a server's own; only the model is the fake one, so no time is measured.
    """
    from chatpager.bench.replicas import Traffic, run

    run(Traffic(sessions, tokens, heads, shared, at_once, room, replicas), out=out)


def bench_hosts(
    streams: Annotated[int, typer.Option(help="answers at once")] = 64,
    prompt: Annotated[int, typer.Option(help="tokens of each prompt")] = 64,
    answer: Annotated[int, typer.Option(help="tokens of each answer")] = 128,
    rounds: Annotated[int, typer.Option(help="measured rounds; in each every engine has its turn")] = 5,
    fake: Annotated[bool, typer.Option("--fake", help="the fake engine in place of the built-in model")] = False,
    pace: Annotated[
        float, typer.Option(help="tokens/s of each stream of the fake engine; 0: as fast as it goes")
    ] = 0.0,
    out: ResultFile = None,
) -> None:
    """What it costs that an engine is in a child process, or a Ray actor where Ray is installed.

    Give OMP_NUM_THREADS: without it Ray gives an actor one thread, and the others have as many as there are cores.
    """
    import tempfile
    from importlib.util import find_spec
    from pathlib import Path

    from chatpager.bench.hosts import Streams, run
    from chatpager.cli import ray_cluster

    asked = Streams(streams, prompt, answer, rounds, fake, pace)
    if find_spec("ray") is None:
        run(asked, has_ray=False, out=out)
        return
    with tempfile.TemporaryDirectory() as folder:
        ray_cluster.begin(Path(folder), cpus=1)
        try:
            run(asked, has_ray=True, out=out)
        finally:
            ray_cluster.end()
