"""``chatpager doctor`` and ``chatpager db upgrade``."""

import fcntl
import json
import socket
import sqlite3
from contextlib import closing

import pytest


def findings(result):
    return {finding["what"]: (finding["state"], finding["text"]) for finding in json.loads(result.out)}


def test_a_machine_that_is_well(chatpager, home):
    result = chatpager("doctor", "--json", "--port", 0)
    assert result.code == 0
    found = findings(result)
    for what in ("python", "torch", "transformers", "aiohttp", "websockets", "sqlalchemy", "model", "template", "port"):
        assert found[what][0] == "ok", found[what]
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


def test_a_port_that_is_taken(chatpager):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = chatpager("doctor", "--json", "--port", taken.getsockname()[1])
    assert findings(result)["port"][0] == "note"
    assert "--port" in findings(result)["port"][1]


@pytest.mark.parametrize("made", [True, False])
def test_a_data_folder_that_cannot_be(chatpager, home, made):
    (home / "file").write_text("")
    result = chatpager("doctor", "--json", "--port", 0, "--data-dir", home / "file" if made else home / "file" / "data")
    assert result.code == 1
    state, text = findings(result)["database"]
    assert state == "wrong"
    assert "--data-dir" in text


def test_a_wrong_setting_is_no_finding_but_an_error(chatpager):
    result = chatpager("doctor", "--port", "x")
    assert (result.code, result.out) == (2, "")


def test_the_database_is_made_once_and_then_up_to_date(chatpager, home):
    first, again = chatpager("db", "upgrade"), chatpager("db", "upgrade")
    assert (first.code, first.err) == (0, "")
    assert first == again
    assert "the database is at revision" in first.out
    state, text = findings(chatpager("doctor", "--json", "--port", 0))["database"]
    assert state == "ok"
    assert str(home) in text
    assert first.out.split()[-1] in text


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
