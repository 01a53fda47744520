"""What is wrong with the way chatpager was started is told in one line that names the cause and the way out."""

import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from chatpager.demo import model_path
from tests.engine.models import write_config


def model(home: Path, **files: str | None) -> Path:
    """A copy of the built-in model, with some files changed, or gone."""
    folder = home / "a-model"
    shutil.copytree(model_path(), folder)
    for name, text in files.items():
        name = name.replace("__", ".")
        (folder / name).unlink(missing_ok=True)
        if text is not None:
            (folder / name).write_text(text)
    return folder


def configured(home, **fields):
    folder = model(home)
    write_config(folder, **fields)
    return folder


def pickled(home):
    return model(home, model__safetensors=None, pytorch_model__bin="a pickle")


def toml(home, text):
    (home / "chatpager.toml").write_text(text)


def newer_database(home):
    (home / "data" / "chatpager").mkdir(parents=True)
    with sqlite3.connect(home / "data" / "chatpager" / "chatpager.db") as database:
        database.execute("create table alembic_version (version_num varchar(32) not null)")
        database.execute("insert into alembic_version values ('9999')")
    database.close()


def no_folder(home):
    (home / "file").write_text("")
    return home / "file" / "data"


# The arguments (a function of the home folder) -> exit code, and what the line says.
def folder(home):
    made = home / "figures.json"
    made.mkdir()
    return str(made)


CASES = {
    "a flag that there is not": (lambda h: ["demo", "--warp", "9"], 2, ["--warp"]),
    "a value that there is not": (
        lambda h: ["demo", "--dtype", "int3"], 2, ["dtype = 'int3' (from --dtype)", "bfloat16"],
    ),
    "a number that is none": (
        lambda h: ["demo", "--port", "eighty"], 2, ["port = 'eighty' (from --port)", "whole number"],
    ),
    "a number out of range": (lambda h: ["demo", "--port", "70000"], 2, ["port = '70000' (from --port)", "65535"]),
    "more parts than heads": (
        lambda h: ["demo", "--tensor-parallel-size", "4"], 2, ["tensor_parallel_size = 4: ", "2 KV heads; use 1, 2"],
    ),
    "every address without a key": (lambda h: ["demo", "--host", "0.0.0.0"], 2, ["host", "--api-key"]),
    "a key in a file that is not there": (
        lambda h: ["demo", "--api-key-file", h / "no.key"], 2, ["api_key_file", "no.key", "No such file"],
    ),
    "a key in an empty file": (
        lambda h: (h / "a.key").write_text("\n") and ["demo", "--api-key-file", h / "a.key"], 2, ["a.key", "is empty"],
    ),
    "a key of several lines": (
        lambda h: (h / "a.key").write_text("pw\npw") and ["demo", "--api-key-file", h / "a.key"], 2, ["one line"],
    ),
    "another model than the one that is pinned": (
        lambda h: ["demo", "--port", "0", "--model-sha256", "0" * 64], 1, ["model_sha256 pins", f"not {'0' * 64}"],
    ),
    "a broken file": (lambda h: toml(h, "[engine\n") or ["demo"], 2, ["chatpager.toml", "line 1"]),
    "a file with a wrong section": (lambda h: toml(h, "[motor]\n") or ["demo"], 2, ["motor", "no such section"]),
    "a file with a wrong name": (
        lambda h: toml(h, "[engine]\nblock_sice = 16\n") or ["demo"], 2, ["engine.block_sice", "mean 'block_size'"],
    ),
    "a file with a wrong value": (
        lambda h: toml(h, "[engine]\nblock_size = 7\n") or ["demo"], 2, ["block_size = 7", "[engine]", "multiple of 8"],
    ),
    "no such file": (lambda h: ["demo", "--config", h / "no.toml"], 2, ["no.toml", "--config", "no such file"]),
    "no model": (lambda h: ["serve"], 2, ["chatpager serve FOLDER", "chatpager demo"]),
    "a model folder that is missing": (lambda h: ["serve", h / "nowhere"], 1, ["nowhere", "no such folder"]),
    "a model that is a file": (lambda h: ["serve", model_path() / "config.json"], 1, ["config.json"]),
    "an empty folder": (lambda h: (h / "empty").mkdir() or ["serve", h / "empty"], 1, ["empty", "config.json"]),
    "pickled weights": (lambda h: ["serve", pickled(h)], 1, ["a-model", "safetensors"]),
    "a broken configuration": (lambda h: ["serve", model(h, config__json="{")], 1, ["config.json", "JSON"]),
    "a wrong field": (lambda h: ["serve", configured(h, head_dim=63)], 1, ["a-model/config.json", "head_dim"]),
    "a configuration of another kind": (
        lambda h: ["serve", configured(h, quantization_config="x")], 1, ["a-model/config.json"],
    ),
    "broken weights": (lambda h: ["serve", model(h, model__safetensors="no")], 1, ["model.safetensors"]),
    "no tokenizer": (lambda h: ["serve", model(h, tokenizer__json=None)], 1, ["tokenizer"]),
    "a broken tokenizer": (lambda h: ["serve", model(h, tokenizer__json="{")], 1, ["a-model/tokenizer.json"]),
    "a tokenizer of an unknown kind": (
        lambda h: ["serve", model(h, tokenizer__json='{"version": "9"}')], 1, ["a-model/tokenizer.json", "version '9'"],
    ),
    "a list for a tokenizer's configuration": (
        lambda h: ["serve", model(h, tokenizer_config__json="[]")], 1, ["tokenizer_config.json", "not a JSON object"],
    ),
    "a broken chat template": (
        lambda h: ["serve", model(h, chat_template__jinja="{% for")], 1, ["a-model", "chat template"],
    ),
    "a context that the model lacks": (lambda h: ["demo", "--max-model-len", "99999"], 2, ["max_model_len", "4096"]),
    "a pool too small": (
        lambda h: ["demo", "--num-kv-blocks", "4", "--max-model-len", "4096"], 2,
        ["max_model_len = 4096", "num_kv_blocks"],
    ),
    "a data folder that cannot be": (
        lambda h: ["demo", "--data-dir", no_folder(h)], 1, ["chatpager.db", "cannot be made"],
    ),
    "another kind of database": (
        lambda h: ["demo", "--database-url", "mysql://u:pw@h/d"], 2, ["database_url", "sqlite"],
    ),
    "a newer database": (lambda h: newer_database(h) or ["demo"], 1, ["9999", "newer chatpager"]),
    "a newer database to upgrade": (lambda h: newer_database(h) or ["db", "upgrade"], 1, ["9999", "newer chatpager"]),
    "a measurement of another shape": (
        lambda h: ["bench", "turns", "--shape", "foo"], 2, ["shape = 'foo'", "15m, 100m"],
    ),
    "a measurement of no round": (lambda h: ["bench", "turns", "--rounds", "0"], 2, ["rounds = 0", "at least 1"]),
    "a measurement of less than nothing": (
        lambda h: ["bench", "turns", "--history", "-5"], 2, ["history = -5", "between 1 and 33792"],
    ),
    "a measurement beyond the context": (
        lambda h: ["bench", "turns", "--history", "33793"], 2, ["history = 33793", "between 1 and 33792"],
    ),
    "a measurement of no framework": (
        lambda h: ["bench", "agents", "--only", "unknown"], 2, ["only = 'unknown'", "google-adk, openai-agents"],
    ),
    "a measurement of no sequence": (
        lambda h: ["bench", "engine", "--batches", "4,0"], 2, ["batches = 0", "at least 1"],
    ),
    "figures to a folder that is not there": (
        lambda h: ["bench", "kernels", "--out", str(h / "none" / "x.json")], 2, ["out = ", "folder is not there"],
    ),
    "figures to a page": (
        lambda h: ["bench", "engine", "--out", str(h / "x.html")], 2, ["out = ", "ends in .json"],
    ),
    "figures where none can be": (
        lambda h: ["bench", "kernels", "--out", "/proc/x.json"], 2, ["out = '/proc/x.json'", "cannot be written"],
    ),
    "a model where none can be": (
        lambda h: ["bench", "model", "--out", "/proc/none/x"], 2, ["out = '/proc/none/x'", "cannot be made"],
    ),
    "figures to a folder": (lambda h: ["bench", "serve", "--out", folder(h)], 2, ["out = ", "is a folder"]),
    "a chat with nobody": (lambda h: ["chat", "--url", "http://127.0.0.1:9"], 1, ["127.0.0.1:9", "chatpager demo"]),
    "a chat with no address": (lambda h: ["chat", "--url", "nonsense"], 2, ["url: 'nonsense'", "http://"]),
    "a chat with a socket's address": (
        lambda h: ["chat", "--url", "ws://127.0.0.1:8123"], 2, ["url: 'ws://127.0.0.1:8123'", "http://"],
    ),
    "a chat with no port": (
        lambda h: ["chat", "--url", "http://127.0.0.1:99999"], 2, ["url: 'http://127.0.0.1:99999'", "0-65535"],
    ),
    "a chat with no session": (lambda h: ["chat", "--session", ""], 2, ["session = ''", "conv_"]),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "words"), CASES.values(), ids=CASES.keys())
def test_a_wrong_start(chatpager, home, arguments, code, words):
    argv = arguments(home)
    port = ["--port", "0"] if argv[0] in ("demo", "serve") and "--port" not in argv else []
    result = chatpager(*argv, *port, typed="Hello\n" if argv[0] == "chat" else "")
    assert result.code == code, result
    said = [line for line in result.err.strip().splitlines() if not line.endswith(" ...")]
    if said[0].startswith("Usage:"):  # typer's own errors come in a box
        assert all(word in result.err for word in words)
    else:
        assert len(said) == 1, result.err
        assert said[0].startswith("chatpager: ")
        assert all(word in said[0] for word in words), said[0]
    assert "Traceback" not in result.err
    assert "pw" not in result.err, "a password"
    assert result.out == ""


def test_a_port_that_is_taken(chatpager):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = chatpager("demo", "--port", port)
    assert result.code == 2
    assert result.err.strip().splitlines()[-1].startswith(f"chatpager: port = {port}")
    assert "--port" in result.err


@pytest.mark.parametrize("host", ["nonsense.invalid", "192.0.2.1", "a..b"])
def test_an_address_that_is_not_this_machine_s(chatpager, host):
    result = chatpager("demo", "--host", host, "--insecure", "--port", 0)
    assert result.code == 2
    assert result.err.strip().splitlines()[-1].startswith(f"chatpager: host = {host!r}: cannot listen")
    assert "--host" in result.err
    assert "--port" not in result.err and "Traceback" not in result.err


def test_a_server_that_did_not_start_leaves_no_database(chatpager, home):
    assert chatpager("serve", home / "nowhere").code == 1
    assert not (home / "data").exists()
