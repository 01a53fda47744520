"""Every setting has a flag, a variable and a key in the file; the nearest to the hand wins, and help teaches all."""

import json
from dataclasses import replace

import pytest

from chatpager.cli.app import DEMO_DEFAULTS, SERVE_DEFAULTS
from chatpager.config import ServerConfig
from chatpager.config_values import SECTIONS, settings

VALUES = {  # name -> (in the file, in the environment, as a flag), all different from the default
    "model": ("m1", "m2", "m3"),
    "model_sha256": ("1" * 64, "2" * 64, "3" * 64),
    "dtype": ("float32", "bfloat16", "float64"),
    "quantization": ("int8", "int8", "int8"),
    "engine": ("fake", "fake", "fake"),
    "fake_tokens_per_second": (1.0, 2.0, 3.0),
    "device": ("cpu", "cuda", "cpu"),
    "kv_cache_dtype": ("int8", "fp8", "int8"),
    "block_size": (32, 64, 128),
    "max_model_len": (100, 200, 300),
    "max_num_seqs": (1, 2, 3),
    "max_num_batched_tokens": (11, 12, 13),
    "step_seconds": (0.5, 2.0, 3.0),
    "gpu_memory_utilization": (0.1, 0.2, 0.3),
    "num_kv_blocks": (101, 102, 103),
    "swap_space": (0.0, 2.0, 3.0),
    "kv_dir": ("k1", "k2", "k3"),
    "kv_key_file": ("q1", "q2", "q3"),
    "disk_space": (0.0, 1.0, 3.0),
    "tensor_parallel_size": (2, 3, 4),
    "lease_share": (0.3, 0.4, 0.6),
    "known_conversations": (1, 2, 3),
    "enable_prefix_caching": (False, False, False),
    "seed": (1, 2, 3),
    "overlap": ("on", "off", "on"),
    "cuda_graphs": (False, False, False),
    "num_threads": (1, 2, 3),
    "host": ("::1", "localhost", "127.0.0.2"),
    "port": (1111, 2222, 3333),
    "admin_port": (1112, 2223, 3334),
    "admin_host": ("::1", "localhost", "127.0.0.2"),
    "api_key": ("k1", "k2", "k3"),
    "api_key_file": ("f1", "f2", "f3"),  # never read: the key stands beside it
    "insecure": (True, True, True),
    "allowed_origins": ("http://a.test", "http://b.test", "http://c.test"),
    "served_model_name": ("a", "b", "c"),
    "max_queue": (1, 2, 3),
    "max_queue_per_tenant": (1, 2, 3),
    "max_sockets": (1, 2, 3),
    "max_sockets_per_tenant": (1, 2, 3),
    "requests_per_minute": (1, 2, 3),
    "tokens_per_minute": (1, 2, 3),
    "max_conversations": (1, 2, 3),
    "max_forks": (1, 2, 3),
    "max_message_bytes": (1111, 2222, 3333),
    "max_pending_bytes": (1111, 2222, 3333),
    "drain_seconds": (1.0, 2.0, 3.0),
    "detach_grace": (1.0, 2.0, 3.0),
    "ws_max_age": (1.0, 2.0, 3.0),
    "engine_process": (True, True, True),
    "replicas": (1, 2, 3),
    "ray_address": ("auto", "10.0.0.1:6379", "local"),
    "ray_name": ("a", "b", "c"),
    "watchdog_seconds": (1.0, 2.0, 3.0),
    "log_format": ("json", "json", "json"),
    "log_content": (True, True, True),
    "test_mode": (True, True, True),
    "data_dir": ("d1", "d2", "d3"),
    "database_url": ("sqlite:///a.db", "sqlite:///b.db", "sqlite:///c.db"),
    "share_database": (True, True, True),
}
FILE, VARIABLE, FLAG = range(3)


def expected(name, place):
    if name == "api_key":
        return "(set)"
    return VALUES[name][place]


def as_file():
    lines = []
    for section in SECTIONS:
        lines.append(f"[{section}]")
        lines += [f"{s.name} = {json.dumps(VALUES[s.name][FILE])}" for s in settings() if s.section == section]
    return "\n".join(lines)


def as_variables():
    return {s.env: str(VALUES[s.name][VARIABLE]) for s in settings()}


def as_flags():
    for s in settings():
        value = VALUES[s.name][FLAG]
        if s.type is bool:
            yield s.flag if value else f"--no-{s.flag[2:]}"
        else:
            yield from (s.flag, str(value))


def shown(chatpager, *argv, **env):
    result = chatpager("config", "show", "--json", *argv, **env)
    assert result.code == 0, result.err
    return {row["name"]: (row["value"], row["source"]) for row in json.loads(result.out)}


def test_the_table_above_is_whole():
    assert list(VALUES) == [s.name for s in settings()]


def test_without_anything_the_default_holds(chatpager):
    serving = {name: (value, "command default") for name, value in SERVE_DEFAULTS.items()}
    assert shown(chatpager) == {s.name: (s.default, "default") for s in settings()} | serving


def test_the_file_is_read_from_the_working_folder(chatpager, home):
    (home / "chatpager.toml").touch(0o600)
    (home / "chatpager.toml").write_text(as_file())
    assert shown(chatpager) == {s.name: (expected(s.name, FILE), f"chatpager.toml [{s.section}]") for s in settings()}


@pytest.mark.parametrize("way", ["--config", "CHATPAGER_CONFIG", "XDG_CONFIG_HOME"])
def test_the_file_may_be_elsewhere(chatpager, home, way):
    place = home / "elsewhere" / "chatpager" / "chatpager.toml"
    place.parent.mkdir(parents=True)
    place.write_text("[server]\nport = 4444\n")
    argv = ["--config", place] if way == "--config" else []
    env = {way: str(home / "elsewhere" if way.startswith("XDG") else place)} if not argv else {}
    assert shown(chatpager, *argv, **env)["port"] == (4444, f"{place} [server]")


def test_a_variable_beats_the_file(chatpager, home):
    (home / "chatpager.toml").write_text(as_file())
    assert shown(chatpager, **as_variables()) == {s.name: (expected(s.name, VARIABLE), s.env) for s in settings()}


def test_a_flag_beats_all(chatpager, home):
    (home / "chatpager.toml").write_text(as_file())
    found = shown(chatpager, *as_flags(), **as_variables())
    assert found == {s.name: (expected(s.name, FLAG), s.flag) for s in settings()}


def test_what_is_shown_holds_no_secret(chatpager):
    secret = {"CHATPAGER_API_KEY": "hush", "CHATPAGER_DATABASE_URL": "postgresql://me:hush@db.test/chats"}
    for argv in ([], ["--json"]):
        result = chatpager("config", "show", *argv, **secret)
        assert result.code == 0
        assert "hush" not in result.out + result.err
        assert "db.test" in result.out


def test_the_table_names_value_source_and_variable(chatpager):
    rows = [line.split() for line in chatpager("config", "show", "--port", 4444).out.splitlines()]
    assert ["server.port", "4444", "--port", "CHATPAGER_PORT"] in rows
    assert len(rows) == 1 + len(VALUES)


def test_names_in_the_table_are_as_they_are(chatpager, home):
    """A name in brackets is no markup."""
    (home / "chatpager.toml").write_text('[server]\nport = 4444\n[store]\ndata_dir = "/srv/x[/a]:smile:"\n')
    rows = [line.split() for line in chatpager("config", "show").out.splitlines()]
    assert ["server.port", "4444", "chatpager.toml", "[server]", "CHATPAGER_PORT"] in rows
    assert ["store.data_dir", "/srv/x[/a]:smile:", "chatpager.toml", "[store]", "CHATPAGER_DATA_DIR"] in rows


COMMAND_DEFAULTS = {"demo": DEMO_DEFAULTS}
SERVER_COMMANDS = {"demo": {"model"}, "serve": {"model"}, "doctor": set(), "config show": set()}


@pytest.mark.parametrize(("command", "left_out"), SERVER_COMMANDS.items(), ids=SERVER_COMMANDS.keys())
def test_help_teaches_every_setting(chatpager, command, left_out):
    result = chatpager(*command.split(), "--help")
    assert (result.code, result.err) == (0, "")
    words = " ".join(result.out.replace("│", " ").split())
    for s in settings():
        if s.name not in left_out:
            assert f"{s.flag} " in words
            assert s.help in words, "its meaning"
            default = COMMAND_DEFAULTS.get(command, SERVE_DEFAULTS).get(s.name, s.default)
            if default not in (None, ""):
                assert f"{s.help} [{str(default).lower() if s.type is bool else default}]" in words


def test_help_names_every_command(chatpager):
    for argv, code in (["--help"], 0), ([], 2):
        result = chatpager(*argv)
        assert result.code == code
        said = result.out + result.err
        for command in ("demo", "serve", "chat", "doctor", "keys", "db", "config", "bench"):
            assert f" {command} " in said


def test_the_watchdog_is_on_where_another_replica_goes_on():
    default = ServerConfig()
    assert default.resolved_watchdog_seconds() == 0
    assert replace(default, replicas=2).resolved_watchdog_seconds() == 5
    assert replace(default, replicas=2, watchdog_seconds=0.0).resolved_watchdog_seconds() == 0
    assert replace(default, watchdog_seconds=60.0).resolved_watchdog_seconds() == 60


def test_version(chatpager):
    import chatpager as package

    assert chatpager("--version") == (0, f"chatpager {package.__version__}\n", "")
