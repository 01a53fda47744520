"""``chatpager chat``: lines from a pipe, and a person at a terminal."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import unicodedata

import pytest

from chatpager.cli.showing import visible
from chatpager.demo import model_path
from tests.processes import clean_env, serving, traced

SESSION = re.compile(r"chatpager chat --session (conv_\w+)")
PROMPT = r"(?m)^(?:\x1b\[\?2004h)?you "  # readline may turn on bracketed paste; answers have the word within a line


@pytest.fixture
def chat(chatpager, server_url):
    def run(typed, *argv, **env):
        return chatpager("chat", "--url", server_url, *argv, typed=typed, **env)

    return run


def test_lines_of_a_pipe_are_answered_and_only_answers_come_out(chat, server):
    result = chat("My name is Ada.\n\nWhat is my name?\n")
    assert result.code == 0, result.err
    first, second = result.out.splitlines()
    assert "Ada" in second
    session = SESSION.search(result.err)[1]
    items = server.get(f"/v1/conversations/{session}/items?order=asc")["data"]
    texts = [item["content"][0]["text"] for item in items]
    assert texts == ["My name is Ada.", first, "What is my name?", second]
    receipts = re.findall(r"cached (\d+)/\d+ tokens - \d+ ms to first token", result.err)
    assert len(receipts) == 2
    assert int(receipts[1]) > 0


def test_a_session_goes_on_with_the_command_that_is_told(chat, home):
    told = re.search("to go on: (.*)", chat("My name is Ada.\n").err)[1]
    result = subprocess.run(
        shlex.split(told),
        input="What is my name?\n",
        env=clean_env(home, **traced()),
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert "Ada" in result.stdout
    assert f"to go on: {told}\n" in result.stderr


def sessions(server):
    return {row["id"] for row in server.get("/v1/conversations?limit=100")["data"]}


@pytest.mark.parametrize(
    ("typed", "code"), [("", 0), ("\n \n", 0), ("word " * 9000 + "\n", 1)], ids=["nothing", "empty lines", "refused"]
)
def test_a_chat_that_says_nothing_leaves_no_session(chat, server, typed, code):
    before = sessions(server)
    result = chat(typed)
    assert (result.code, result.out) == (code, "")
    assert "to go on" not in result.err
    assert sessions(server) == before


def test_the_server_is_found_by_the_settings(chatpager, server_url, home):
    host, port = server_url.removeprefix("http://").split(":")
    (home / "chatpager.toml").write_text(f'[server]\nhost = "{host}"\nport = {port}\n')
    for env in ({}, {"CHATPAGER_URL": server_url, "CHATPAGER_PORT": "9"}):
        result = chatpager("chat", typed="Hello\n", **env)
        assert (result.code, bool(result.out)) == (0, True), result.err
        assert (f" --url {server_url}" in result.err) == bool(env), "the hint finds the same server again"


@pytest.mark.parametrize(
    ("typed", "argv", "words"),
    [
        ("Hello\n", ["--session", "conv_never"], "conv_never"),
        ("word " * 9000 + "\n", [], "4096 tokens that the context holds"),
    ],
    ids=["an unknown session", "more than the context"],
)
def test_a_refusal_is_one_line_and_the_exit_code(chat, typed, argv, words):
    result = chat(typed, *argv)
    assert (result.code, result.out) == (1, "")
    [line] = result.err.strip().splitlines()
    assert line.startswith("chatpager: ")
    assert words in line


@pytest.fixture
def terminal(fork_server, server_url, home):
    process = fork_server("chat", "--url", server_url, env=clean_env(home, **traced()), cwd=home, tty=True)
    yield process
    process.end()


class Person:
    """Types when it is asked to, and reads on from where it has read."""

    def __init__(self, process):
        self.process, self.read = process, 0

    def sees(self, pattern):
        found = self.process.out.wait_for(pattern, after=self.read)
        self.read = found.end()
        return found[0]

    def types(self, text):
        self.sees(PROMPT)
        self.process.say(text)

    def interrupts(self):
        self.process.wait_until_it_sleeps()
        self.process.say("\x03")


def test_a_person_asks_twice_and_leaves(terminal):
    person = Person(terminal)
    person.sees("new session")
    person.types("My name is Ada. [/b]\r")
    person.sees("assistant .+\r\n")
    person.sees("cached ")
    person.types("What is my name?\r")
    assert "Ada" in person.sees("assistant .+\r\n")
    person.types("/quit\r")
    person.sees(SESSION.pattern)
    assert terminal.wait() == 0
    assert "Traceback" not in terminal.out.whole()


def test_a_refused_first_message_leaves_no_session_and_the_chat_goes_on(fork_server, home):
    with serving(fork_server, home, "--max-model-len", "64") as server:
        process = fork_server("chat", "--url", server.url, env=clean_env(home, **traced()), cwd=home, tty=True)
        person = Person(process)
        person.types("word " * 80 + "\r")
        person.sees("the context holds 64")
        person.sees(PROMPT)
        assert sessions(server) == set()
        process.say("Hello\r")
        person.sees("cached ")
        person.types("\x04")
        assert sessions(server) == {SESSION.search(person.sees(SESSION.pattern))[1]}
        assert process.wait() == 0
        process.end()


@pytest.fixture
def endless(home):
    """The built-in model, whose answers now end with a token that it never says."""
    folder = home / "endless"
    shutil.copytree(model_path(), folder)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "eos_token_id": [0]}))
    return folder


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(fork_server, endless, home):
    with serving(fork_server, home, command=("serve", str(endless))) as server:
        process = fork_server("chat", "--url", server.url, env=clean_env(home, **traced()), cwd=home, tty=True)
        person = Person(process)
        for _ in range(2):
            person.types("What is chatpager?\r")
            person.sees(r"assistant \w+ \w+")
            process.say("\x03")
            person.sees("stopped")
        person.types("\x04")
        session = SESSION.search(person.sees(SESSION.pattern))[1]
        assert process.wait() == 0
        answers = server.get(f"/v1/conversations/{session}/items?order=asc")["data"][1::2]
        assert [answer["chatpager"]["state"] for answer in answers] == ["cancelled", "cancelled"]
        process.end()


def test_ctrl_d_leaves(terminal, server):
    before = sessions(server)
    Person(terminal).types("\x04")
    assert terminal.wait() == 0
    assert "to go on" not in terminal.out.whole()
    assert sessions(server) == before


def test_ctrl_c_clears_the_line_and_leaves_where_there_is_none(terminal):
    person = Person(terminal)
    person.types("half a line")
    person.sees("half a line")
    person.interrupts()
    person.sees("Ctrl.C again or Ctrl.D leaves")
    person.sees(PROMPT)
    terminal.say("another")
    person.sees("another")
    person.interrupts()
    person.sees("leaves")
    person.types("Hello\r")
    person.sees("cached ")
    for _ in range(2):
        person.sees(PROMPT)
        person.interrupts()
    assert "half" not in person.sees(SESSION.pattern)
    assert terminal.wait() == 0
    assert terminal.out.whole().count("leaves\r\n") == 3
    assert "Traceback" not in terminal.out.whole()


def test_the_history_is_shown_when_a_session_is_opened(chat, fork_server, server_url, home):
    session = SESSION.search(chat("My name is Ada. [/b]\n").err)[1]
    process = fork_server(
        "chat", "--url", server_url, "--session", session, env=clean_env(home, **traced()), cwd=home, tty=True
    )  # fmt: skip
    person = Person(process)
    person.sees(re.escape("you My name is Ada. [/b]\r\nassistant "))
    person.types("\x04")
    assert process.wait() == 0
    process.end()


def test_ctrl_c_in_a_pipe_ends_it(fork_server, server_url, home):
    process = fork_server("chat", "--url", server_url, env=clean_env(home, **traced()), cwd=home)
    process.say("Hello\n")
    process.err.wait_for("cached ")
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert "Traceback" not in process.err.whole()
    process.end()


def test_what_a_terminal_obeys_is_shown_and_not_obeyed():
    obeyed = "".join(chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) == "Cc" and chr(i) not in "\n\t")
    assert visible(f"a{obeyed}b\n\tc\u00e9") == f"a{chr(0xFFFD) * len(obeyed)}b\n\tc\u00e9"


def test_bytes_that_are_no_text_are_replaced(fork_server, server_url, home):
    process = fork_server("chat", "--url", server_url, env=clean_env(home, **traced()), cwd=home)
    os.write(process._stdin, b"Hello \xff\n")
    process.hang_up()
    assert process.wait() == 0, process.err.whole()
    assert "Traceback" not in process.err.whole()
    process.end()


def test_a_key_that_is_no_header_is_one_line(chat):
    result = chat("Hello\n", "--api-key", "a\nb")
    assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)
    assert result.err.startswith("chatpager: api_key")
