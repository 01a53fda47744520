"""What holds for every command: its help teaches, what it reads it can tell a program, and a pipe gets no colours."""

import os
import re
import shlex
import signal
import socket

import pytest
from typer.main import get_command

from chatpager.cli.app import app
from tests.processes import clean_env, traced

ESCAPE = "\x1b["
READS = {
    "sessions ls", "sessions search", "sessions show", "sessions rename", "sessions pin", "sessions unpin",
    "sessions hint", "sessions prefetch", "sessions fork", "sessions rewind", "sessions compact", "sessions rm",
    "sessions export",
    "cache stats", "cache top", "cache explain", "cache prefixes", "cache publish", "cache withdraw",
    "tenants list", "tenants limit", "tenants pause", "tenants resume", "tenants erase",
    "keys list", "keys create", "keys revoke", "config show", "db upgrade", "doctor",
}  # fmt: skip
TALKS = {"serve", "demo", "chat"}
"""Commands that serve or talk; measurements have ``--out``."""
WANTED = READS | TALKS | {"bench turns"}


def commands(group, path=()):
    """Every command and group that help shows, by its words."""
    yield " ".join(path), group
    for name, command in getattr(group, "commands", {}).items():
        if not command.hidden:
            yield from commands(command, (*path, name))


ALL = dict(commands(get_command(app)))


def test_no_command_is_missing():
    assert set(ALL) >= WANTED


@pytest.mark.parametrize("name", ALL)
def test_help_ends_with_an_example_that_the_command_understands(name):
    marker, _, line = (ALL[name].epilog or "").partition(": ")
    assert marker == "Example", name
    program, *words = shlex.split(line.partition(" > ")[0])
    assert program == "chatpager"
    assert " ".join(words).startswith(name)
    command, path = ALL[""], []
    while hasattr(command, "commands"):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    command.make_context(" ".join(path), words).close()


@pytest.mark.parametrize("name", sorted(READS))
def test_what_it_reads_a_program_can_have(name):
    assert "--json" in [flag for parameter in ALL[name].params for flag in parameter.opts]


def test_every_other_command_serves_or_measures():
    told = {name for name, command in ALL.items() if not hasattr(command, "commands")}
    assert {name for name in told if not name.startswith("bench ")} == READS | TALKS


def test_help_shows_the_example(chatpager):
    result = chatpager("sessions", "pin", "--help")
    assert (result.code, result.err) == (0, "")
    assert " Example: chatpager sessions pin conv_... --ttl 3600\n" in re.sub(" +\n", "\n", result.out)


@pytest.mark.parametrize(
    ("env", "tty", "coloured"),
    [({"NO_COLOR": ""}, False, False), ({"NO_COLOR": ""}, True, True), ({"NO_COLOR": "1"}, True, False)],
    ids=["a pipe", "a terminal", "a terminal without colours"],
)
def test_colours_are_for_terminals_that_want_them(fork_server, home, env, tty, coloured):
    process = fork_server(
        "doctor", "--port", "0", env=clean_env(home, TERM="xterm", **traced(), **env), cwd=home, tty=tty
    )
    assert process.wait() == 0
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", process.out.whole())) is coloured


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_it(chatpager, home, shell):
    # What typer's own tests say, too: else it asks which shell started the process, and none did.
    known = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "SHELL": f"/bin/{shell}"}
    result = chatpager("--install-completion", shell, **known)
    assert result.code == 0, result.err
    assert f"{shell} completion installed in" in result.out
    [script] = [path for path in home.rglob("*") if path.is_file() and "COMPLETE" in path.read_text()]
    assert f"complete_{shell}" in script.read_text()


def test_what_completes(home, fork_server):
    words = {"COMP_WORDS": "chatpager sessions re", "COMP_CWORD": "2", "_CHATPAGER_COMPLETE": "complete_bash"}
    process = fork_server(env=clean_env(home, **traced(), **words), cwd=home)
    assert process.wait() == 0
    assert process.out.whole().split() == ["rename", "rewind"]


def test_an_interrupted_command_says_so(fork_server, home):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = fork_server("sessions", "ls", "--url", url, env=clean_env(home, **traced()), cwd=home)
        with silent.accept()[0]:  # it connects
            os.kill(process.pid, signal.SIGINT)
            assert process.wait() == 130
        assert "Traceback" not in process.err.whole()
