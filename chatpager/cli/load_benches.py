"""``chatpager bench load`` and ``bench chaos``: a server under many sockets, and under what can go wrong."""

from __future__ import annotations

from typing import Annotated

import typer

from chatpager.cli.peer_benches import whole_numbers
from chatpager.cli.results import ResultFile


def bench_load(
    url: Annotated[
        str | None,
        typer.Option(help="a server that runs, http://HOST[:PORT]; default: one of its own, with the fake engine"),
    ] = None,
    idle: Annotated[int, typer.Option(help="sockets on which nothing is said")] = 0,
    streams: Annotated[str, typer.Option(help="answers at once; one after the other where commas are: 100,1000")] = "",
    turns: Annotated[int, typer.Option(help="clients in conversations, turn after turn of a few tokens")] = 0,
    resumes: Annotated[int, typer.Option(help="readers that come back all at once")] = 0,
    stalled: Annotated[int, typer.Option(help="clients that ask and never read")] = 0,
    soak: Annotated[float, typer.Option(help="seconds of 50 clients that come, ask, are cut off and come back")] = 0,
    rate: Annotated[float, typer.Option(help="tokens a second of each stream of its own server")] = 20.0,
    seconds: Annotated[float, typer.Option(help="for which idle sockets, streams and turns are watched")] = 20.0,
    self_flags: Annotated[str, typer.Option(help="flags of its own server, in quotes")] = "",
    api_key: Annotated[str | None, typer.Option(help="an admin's key of the server of --url")] = None,
    transcript: Annotated[str | None, typer.Option(help="write all that was sent and heard to this file")] = None,
    out: ResultFile = None,
) -> None:
    """A server under thousands of WebSockets: its memory, processor and delays, against the goals for two cores.

    What was heard is written down, line by line, and held against what the server has stored: every event once and in
    order, every text as it is stored. Fails if anything is not so. Without a load of its own: a little of each.

    More than some 20,000 files open at once need a higher limit (ulimit -n), for the server too.
    """
    import shlex

    from chatpager.bench.load import Options, run

    several = whole_numbers("streams", streams) if streams else ()
    if not (idle or several or turns or resumes or stalled or soak):
        idle, several, resumes, stalled = 500, (50,), 500, 5
    run(
        Options(
            url=url,
            api_key=api_key,
            idle=idle,
            streams=several,
            turns=turns,
            resumes=resumes,
            stalled=stalled,
            soak=soak,
            rate=rate,
            seconds=seconds,
            self_flags=tuple(shlex.split(self_flags)),
            transcript=transcript,
            out=out,
        )
    )


def bench_chaos(
    rounds: Annotated[int, typer.Option(help="of each fault")] = 5,
    only: Annotated[
        str | None, typer.Option(help="kill, stop, full, gone, cut, clock; comma separated; default: all")
    ] = None,
    seed: Annotated[int, typer.Option(help="of when and where faults strike")] = 0,
    out: ResultFile = None,
) -> None:
    """Faults that strike a server of its own while clients talk to it: is anything lost that they were told?

    [bold]kill[/bold] is kill -9, at a random moment or at a commit; [bold]stop[/bold] SIGSTOP for a while;
    [bold]full[/bold] and [bold]gone[/bold] a database that has no room, or cannot be opened, a few times;
    [bold]cut[/bold] a proxy that resets connections; [bold]clock[/bold] a wall clock that jumps by an hour. What
    clients heard is held against what is stored. Fails if an acknowledged turn is not there, a text that was shown
    is not what is stored, or a response has no end.
    """
    from chatpager.bench.chaos import run

    run(rounds=rounds, only=only.split(",") if only else None, seed=seed, out=out)
