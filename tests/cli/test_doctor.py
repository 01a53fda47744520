"""``chatpager doctor`` and ``chatpager db upgrade``."""

import fcntl
import json
import shutil
import socket
import sqlite3
from contextlib import closing

import pytest

from chatpager.demo import model_path
from chatpager.engine.model_digest import model_digest


def findings(result):
    return {finding["what"]: (finding["state"], finding["text"]) for finding in json.loads(result.out)}


def test_a_machine_that_is_well(chatpager, home):
    result = chatpager("doctor", "--json", "--port", 0)
    assert result.code == 0
    found = findings(result)
    for what in ("python", "torch", "transformers", "aiohttp", "websockets", "sqlalchemy", "model", "template", "port"):
        assert found[what][0] == "ok", found[what]
    assert found["digest"] == ("ok", f"model_sha256 = {model_digest(model_path())}")
    assert found["database"] == ("note", f"{home}/data/chatpager/chatpager.db is not there yet; the server makes it")
    assert not (home / "data").exists(), "to look is not to make"


def test_for_people(chatpager):
    result = chatpager("doctor", "--port", 0)
    assert result.code == 0
    assert "ok    model" in result.out
    assert "extends from turn to turn" in result.out


def test_a_model_that_cannot_be_served(chatpager, home):
    result = chatpager("doctor", "--json", "--port", 0, "--model", home / "nowhere")
    assert result.code == 1
    state, text = findings(result)["model"]
    assert state == "wrong"
    assert "nowhere" in text and "no such folder" in text


# A file of the model, what is in it -> the finding, and what it says.
BROKEN = {
    "a template": ("chat_template.jinja", "{% for", "template", "chat template"),
    "a template that refuses in two lines": (
        "chat_template.jinja", "{{ raise_exception('not\nme') }}", "template", "not me",
    ),
    "a configuration of another type": (
        "config.json", '{"model_type": "llama", "num_hidden_layers": "two"}', "model", "config.json",
    ),
    "weights of another shape": (
        "config.json", json.dumps(json.loads((model_path() / "config.json").read_text()) | {"vocab_size": 10}), "model",
        "config.json asks for [10, 256]",
    ),
    "a tokenizer": ("tokenizer.json", '{"version": "9"}', "model", "tokenizer.json"),
    "how to sample": ("generation_config.json", '{"temperature": "hot"}', "model", "generation_config.json"),
    "what ends an answer": ("generation_config.json", '{"eos_token_id": "x"}', "model", "generation_config.json"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "text", "what", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_model_with_something_broken_is_one_finding_among_all(chatpager, home, file, text, what, words):
    shutil.copytree(model_path(), home / "m")
    (home / "m" / file).write_text(text)
    result = chatpager("doctor", "--json", "--port", 0, "--model", home / "m")
    assert (result.code, result.err) == (1, "")
    state, told = findings(result)[what]
    assert state == "wrong"
    assert words in told and "\n" not in told
    assert {"python", "port", "database"} <= set(findings(result))


def test_names_are_printed_as_they_are(chatpager, home):
    """A name in brackets is no markup, and a word between colons no picture."""
    for name in ("[prod]", "x[/a]", ":smile:"):
        result = chatpager("doctor", "--port", 0, "--model", home / name, "--data-dir", home / name)
        assert (result.code, result.err) == (1, "")
        assert f"wrong model      cannot load {home}/{name}: no such folder" in result.out
        assert f"note  database   {home}/{name}/chatpager.db is not there yet" in result.out


def test_a_port_that_is_taken(chatpager):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = chatpager("doctor", "--json", "--port", port)
    assert result.code == 1
    state, text = findings(result)["port"]
    assert state == "wrong"
    assert text.startswith(f"port = {port}: ") and "--port" in text


@pytest.mark.parametrize("made", [True, False])
def test_a_data_folder_that_cannot_be(chatpager, home, made):
    (home / "file").write_text("")
    result = chatpager("doctor", "--json", "--port", 0, "--data-dir", home / "file" if made else home / "file" / "data")
    assert result.code == 1
    state, text = findings(result)["database"]
    assert state == "wrong"
    assert "--data-dir" in text


def test_a_data_folder_whose_name_is_too_long(chatpager, home):
    result = chatpager("doctor", "--json", "--port", 0, "--data-dir", home / ("x" * 300))
    assert (result.code, result.err) == (1, "")
    state, text = findings(result)["database"]
    assert state == "wrong"
    assert "too long" in text


def test_a_host_that_cannot_be_one(chatpager):
    result = chatpager("doctor", "--json", "--port", 0, "--host", "x" * 300)
    assert result.code == 1
    state, text = findings(result)["port"]
    assert state == "wrong" and "--host" in text


def test_a_wrong_setting_is_no_finding_but_an_error(chatpager):
    result = chatpager("doctor", "--port", "x")
    assert (result.code, result.out) == (2, "")


def test_the_database_is_made_once_and_then_up_to_date(chatpager, home):
    first, again = chatpager("db", "upgrade"), chatpager("db", "upgrade")
    assert (first.code, first.err) == (0, "")
    assert first == again
    assert "the database is at revision" in first.out
    assert json.loads(chatpager("db", "upgrade", "--json").out) == {"revision": first.out.split()[-1]}
    state, text = findings(chatpager("doctor", "--json", "--port", 0))["database"]
    assert state == "ok"
    assert str(home) in text
    assert first.out.split()[-1] in text


def test_a_database_that_is_not_up_to_date_is_brought_there(chatpager, home):
    file = home / "mine.db"
    sqlite3.connect(file).close()
    file.touch()
    state, text = findings(chatpager("doctor", "--json", "--port", 0, "--database-url", f"sqlite:///{file}"))[
        "database"
    ]
    assert state == "note" and "has no schema yet" in text and "chatpager db upgrade" in text


def test_the_database_of_another_url(chatpager, home):
    assert chatpager("db", "upgrade", "--database-url", f"sqlite:///{home}/mine.db").code == 0
    assert (home / "mine.db").is_file()


def test_upgrade_asks_for_the_database_like_a_server(chatpager, home):
    (home / "mine.db.lock").write_text("123\n")
    with (home / "mine.db.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = chatpager("db", "upgrade", "--database-url", f"sqlite:///{home}/mine.db")
    assert refused.code == 1 and "is in use by process 123: stop it" in refused.err
    with closing(sqlite3.connect(home / "mine.db")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == []


@pytest.mark.parametrize(
    ("flags", "what", "words"),
    [
        (("--host", "0.0.0.0"), "access", "--api-key"),
        (("--max-model-len", "999999"), "length", "at most 4096 tokens"),
    ],
)
def test_settings_that_the_server_refuses(chatpager, flags, what, words):
    result = chatpager("doctor", "--json", "--port", 0, *flags)
    assert result.code == 1
    state, text = findings(result)[what]
    assert state == "wrong" and words in text
