"""A process that has imported everything, and forks one process for each ``chatpager`` command it is asked for.

To import torch and transformers takes seconds, to fork takes milliseconds; what is forked is a process of its own with
its own environment, working folder and standard streams, which is really killed when it is killed. One request is one
message of a Unix socket: JSON, with the three streams as file descriptors; one answer tells the pid, one the exit.
"""

import asyncio
import gc
import json
import os
import selectors
import socket
import sys
import tempfile
from pathlib import Path

import coverage

MAIN = str(Path(__file__).parent.parent / "chatpager" / "__main__.py")
"""What ``python -m chatpager`` has as its first argument."""


def warm_up() -> None:
    """Open and close what a server opens, so that what is imported or compiled at the first time is so already."""
    import uvloop  # noqa: F401

    import chatpager.cli.chatting
    import chatpager.cli.doctor  # noqa: F401
    from chatpager.cli.app import DEMO_DEFAULTS
    from chatpager.cli.serving import service_opener
    from chatpager.config_sources import load
    from chatpager.demo import model_path

    async def open_and_close(folder: str) -> None:
        config = load({"data_dir": folder, "model": str(model_path())}, defaults=DEMO_DEFAULTS, env={})
        service = await service_opener(config, model_path(), "warm-up")()
        await service.hub.close()
        await service.store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(open_and_close(folder))
    if tracing := coverage.Coverage.current():
        tracing.save()  # or every forked process would write down once more what was covered until here
    gc.freeze()  # or every forked process would copy what its first collection looks at


def serve(channel: socket.socket) -> bool:
    """Fork until the other side leaves. True in a forked process, which shall now be the command."""
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    _, status = os.waitpid(key.data, 0)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    tell(channel, ended=key.data, status=os.waitstatus_to_exitcode(status))
                    continue
                request, streams, _, _ = socket.recv_fds(channel, 1 << 20, 3)
                if not request:
                    return False
                pid = os.fork()
                if pid == 0:
                    become(json.loads(request), streams)
                    return True
                for stream in streams:
                    os.close(stream)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                tell(channel, started=pid)


def tell(channel: socket.socket, **answer: int) -> None:
    channel.send(json.dumps(answer).encode())


def become(request: dict, streams: list[int]) -> None:
    """Take on the environment, the folder, the streams and the arguments of the command."""
    if (tracing := coverage.Coverage.current()) and not request["env"].get("COVERAGE_PROCESS_CONFIG"):
        tracing.stop()
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = [MAIN, *request["argv"]]
    if os.isatty(streams[0]):
        os.login_tty(os.dup(streams[0]))
    else:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def main() -> None:
    warm_up()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        tell(channel, ready=os.getpid())
        is_command = serve(channel)
    if is_command:
        from chatpager.cli.leaving import leave

        leave(run_command())


def run_command() -> int:
    from chatpager import cli, failpoints

    failpoints.arm(os.environ.get("CHATPAGER_FAILPOINTS", ""))
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    main()
