"""The tree of settings: which value wins, and what is said of a wrong one. How each is typed in: tests/cli."""

import dataclasses
import json

import pytest

from chatpager.config import Config, EngineConfig, ServerConfig, StoreConfig
from chatpager.config_sources import load
from chatpager.config_values import check_engine, settings
from chatpager.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(folder):
    def write(text):
        (folder / "chatpager.toml").write_text(text)

    return write


def wrong(*, flags=None, env=None, file=None):
    with pytest.raises(ConfigError) as refused:
        load(flags, env=env or {}, file=file)
    return refused.value


class TestWhichValueWins:
    def test_the_default(self, folder):
        assert load(env={}) == Config(EngineConfig(), ServerConfig(), StoreConfig())
        assert load(env={}).sources == {}

    def test_flag_before_variable_before_file_before_command_before_default(self, file):
        file("[engine]\nseed = 3\n")
        at = {"flags": {"seed": "1"}, "env": {"CHATPAGER_SEED": "2"}, "defaults": {"seed": 4}}
        seeds, sources = [], []
        for source in ("flags", "env", "file", "defaults", None):
            loaded = load(at.get("flags"), env=at.get("env", {}), defaults=at.get("defaults"))
            seeds.append(loaded.engine.seed)
            sources.append(loaded.sources.get("seed"))
            at.pop(source, None)
            if source == "file":
                file("")
        assert seeds == [1, 2, 3, 4, None]
        assert sources == ["--seed", "CHATPAGER_SEED", "chatpager.toml [engine]", "command default", None]

    def test_a_flag_that_is_not_given_is_none_and_hides_nothing(self, folder):
        assert load({"seed": None}, env={"CHATPAGER_SEED": "2"}).engine.seed == 2

    def test_the_working_folders_file_comes_before_the_persons(self, file, folder):
        person = folder / "config" / "chatpager"
        person.mkdir(parents=True)
        (person / "chatpager.toml").write_text("[engine]\nseed = 5\n")
        env = {"XDG_CONFIG_HOME": str(folder / "config")}
        assert load(env=env).engine.seed == 5
        file("[engine]\nseed = 6\n")
        assert load(env=env).engine.seed == 6
        assert load(env={**env, "CHATPAGER_CONFIG": str(person / "chatpager.toml")}).engine.seed == 5

    def test_variables_of_others_are_nothing_to_us(self, folder):
        assert load(env={"SEED": "7", "CHATPAGER_WARP": "9", "chatpager_seed": "8"}) == Config()

    def test_variables_of_others_are_nothing_to_us_even_with_our_name(self):
        kubernetes = ("CHATPAGER_SERVICE_HOST", "CHATPAGER_SERVICE_PORT", "CHATPAGER_PORT_8000_TCP_ADDR")
        assert load(env=dict.fromkeys((*kubernetes, "CHATPAGER_URL", "CHATPAGER_FAILPOINTS"), "x")) == Config()

    @pytest.mark.parametrize(
        ("variable", "meant"), [("CHATPAGER_PROT", "CHATPAGER_PORT"), ("CHATPAGER_BLOCKSIZE", "CHATPAGER_BLOCK_SIZE")]
    )
    def test_a_misspelt_variable_is_refused(self, variable, meant):
        error = wrong(env={variable: "1"})
        assert (error.name, error.source) == (variable, "environment")
        assert f"did you mean {meant}?" in str(error)

    def test_the_tree_is_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            Config().engine.seed = 1


class TestWhatIsSaidOfAWrongValue:
    @pytest.mark.parametrize(
        ("name", "value", "problem"),
        [
            ("block_size", "12", "must be a multiple of 8 (8, 16, 32, 64, 128, ...)"),
            ("block_size", "0", "must be a multiple of 8 (8, 16, 32, 64, 128, ...)"),
            ("block_size", "sixteen", "must be a whole number"),
            ("block_size", "16.0", "must be a whole number"),
            ("port", "-1", "must be between 0 and 65535 (0 picks a free port)"),
            ("gpu_memory_utilization", "0", "must be above 0 and at most 1"),
            ("gpu_memory_utilization", "nan", "must be above 0 and at most 1"),
            ("drain_seconds", "-1", "must be at least 0"),
            ("drain_seconds", "inf", "must be at least 0"),
            ("drain_seconds", "soon", "must be a number"),
            ("insecure", "maybe", "must be true or false"),
            ("device", "tpu", "must be one of auto, cpu, cuda"),
            ("max_model_len", "0", "must be at least 1"),
            ("num_kv_blocks", "2", "must be at least 3"),
            ("tensor_parallel_size", "0", "must be between 1 and 64"),
        ],
    )
    def test_its_name_value_and_source(self, folder, name, value, problem):
        setting = next(s for s in settings() if s.name == name)
        for error, source in (
            (wrong(flags={name: value}), setting.flag),
            (wrong(env={setting.env: value}), setting.env),
        ):
            assert (error.name, error.problem, error.source) == (name, problem, source)
            assert str(error.value) in (value, f"{value}.0")
            assert str(error) == f"{name} = {error.value!r} (from {source}): {problem}"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[engine]\nseed = true\n", "seed = True (from chatpager.toml [engine]): must be a whole number"),
            ("[engine]\nmodel = 5\n", "model = 5 (from chatpager.toml [engine]): must be text"),
            ("[engine]\nsede = 5\n", "engine.sede (from chatpager.toml): no such setting; did you mean 'seed'?"),
            ("[engine]\nwarp = 5\n", "engine.warp (from chatpager.toml): no such setting"),
            ("[egnine]\n", "egnine (from chatpager.toml): no such section; did you mean 'engine'?"),
            ("seed = 5\n", "seed (from chatpager.toml): is a setting: put it under [engine]"),
            (
                '[store]\ndata_dir = "a\\u0000b"\n',
                "data_dir = 'a\\x00b' (from chatpager.toml [store]): must not contain a null character",
            ),
            (
                "[engine]\nnum_threads = 100000\n",
                "num_threads = 100000 (from chatpager.toml [engine]): must be between 1 and 1024",
            ),
            ("x = " + "[" * 20_000, "config = 'chatpager.toml': cannot be read: it is nested too deep"),
            ("[engine]\nseed = " + "9" * 5000, "config = 'chatpager.toml': cannot be read: a number in it is too long"),
            (
                f"[server]\nws_max_age = {10**400}",
                f"ws_max_age = {10**400} (from chatpager.toml [server]): must be a number",
            ),
            (
                "[server]\nport = 0x" + "f" * 4000,
                "port = a number too long to be shown (from chatpager.toml [server]): "
                "must be between 0 and 65535 (0 picks a free port)",
            ),
            (
                "[server]\nport = [0x" + "f" * 4000 + "]",
                "port = a number too long to be shown (from chatpager.toml [server]): must be a whole number",
            ),
            ("engine = 5\n", "engine (from chatpager.toml): is a section: put its settings under [engine]"),
        ],
    )
    def test_in_the_file(self, file, text, said):
        file(text)
        assert str(wrong()) == said

    @pytest.mark.parametrize("key", ["\udcff\udcfe", "schlüssel", "a\nb", "a\x7f"])
    def test_a_key_that_no_header_can_carry_is_never_shown(self, folder, key):
        sources = {"CHATPAGER_API_KEY": {"env": {"CHATPAGER_API_KEY": key}}, "--api-key": {"flags": {"api_key": key}}}
        for source, given in sources.items():
            error = wrong(**given)
            assert (error.name, error.source, error.value) == ("api_key", source, None)
            assert "printable ASCII on one line" in error.problem
            assert key not in str(error)

    def test_a_key_in_the_file_is_not_shown_either(self, file):
        for key in (12345678, [12345678], "12345678é"):
            file(f"[server]\napi_key = {json.dumps(key, ensure_ascii=False)}\n")
            error = wrong()
            assert error.source == "chatpager.toml [server]"
            assert "12345678" not in str(error)

    @pytest.mark.parametrize("content", [b"[engine\n", b"\xff", b"seed = 1\nseed = 2\n"])
    def test_a_file_that_cannot_be_read(self, folder, content):
        (folder / "chatpager.toml").write_bytes(content)
        assert str(wrong()).startswith("config = 'chatpager.toml': cannot be read: ")

    def test_a_file_that_is_not_there(self, folder):
        assert str(wrong(file="no.toml")) == "config = 'no.toml' (from --config): no such file"
        assert wrong(env={"CHATPAGER_CONFIG": "no.toml"}).source == "CHATPAGER_CONFIG"

    @pytest.mark.parametrize("name", ["~nobody-of-this-name/c.toml", "x" * 5000])
    def test_a_file_that_cannot_be_there(self, folder, name):
        assert wrong(file=name).problem == "no such file"
        assert load(env={"XDG_CONFIG_HOME": name}).sources == {}

    @pytest.mark.parametrize("name", ["model", "kv_dir", "api_key_file", "data_dir"])
    def test_a_home_that_nobody_has(self, folder, name):
        refused = wrong(flags={name: "~nobody-of-this-name/x"})
        assert (refused.name, refused.problem) == (name, "begins with the home folder of a user who has none")

    def test_without_a_home_the_data_folder_must_be_given(self, monkeypatch):
        monkeypatch.setenv("XDG_DATA_HOME", "~nobody-of-this-name")
        with pytest.raises(ConfigError, match="data_dir: has no default for a user without a home folder"):
            StoreConfig().resolved_data_dir()


class TestValues:
    @pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
    def test_yes(self, folder, text):
        assert load(env={"CHATPAGER_INSECURE": text}).server.insecure is True

    @pytest.mark.parametrize("text", ["0", "false", "No", "off", ""])
    def test_no(self, folder, text):
        assert load(env={"CHATPAGER_ENABLE_PREFIX_CACHING": text}).engine.enable_prefix_caching is False

    @pytest.mark.parametrize("text", ["", "none"])
    def test_an_optional_one_can_be_taken_back(self, file, text):
        file("[engine]\nmax_model_len = 100\n")
        assert load(env={"CHATPAGER_MAX_MODEL_LEN": text}).engine.max_model_len is None

    @pytest.mark.parametrize("name", ["api_key", "served_model_name"])
    def test_a_text_may_be_called_none(self, folder, name):
        setting = next(s for s in settings() if s.name == name)
        assert getattr(load({name: "none"}, env={}).server, name) == "none"
        assert getattr(load(env={setting.env: "none"}).server, name) == "none"
        assert getattr(load(env={setting.env: ""}).server, name) is None

    def test_numbers(self, file):
        file("[server]\ndrain_seconds = 5\n[engine]\nnum_threads = 2\n")
        loaded = load(env={"CHATPAGER_SWAP_SPACE": "0"})
        assert (
            repr((loaded.server.drain_seconds, loaded.engine.num_threads, loaded.engine.swap_space)) == "(5.0, 2, 0.0)"
        )

    def test_every_default_passes_its_own_check(self):
        for s in settings():
            assert s.check is None or s.check(s.default) is None, s.name
            assert s.help

    def test_names_are_flat(self):
        names = [s.name for s in settings()]
        assert len(names) == len(set(names))


class TestWhereDataIs:
    def test_in_the_persons_folder(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert StoreConfig().resolved_database_url() == f"sqlite+aiosqlite:///{tmp_path}/chatpager/chatpager.db"
        monkeypatch.delenv("XDG_DATA_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert StoreConfig().resolved_data_dir() == tmp_path / ".local" / "share" / "chatpager"

    def test_where_one_says(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert StoreConfig(data_dir="~/mine").resolved_data_dir() == tmp_path / "mine"
        assert StoreConfig(database_url="sqlite:///x.db", data_dir="y").resolved_database_url() == "sqlite:///x.db"


class TestTheKeyInAFile:
    def test_the_nearer_to_the_hand_wins_and_beside_each_other_the_key(self, file, folder):
        (folder / "key").write_text(" hush \n")
        (folder / "key").chmod(0o600)
        given = {"key": "k", "file": "key"}
        names = {"key": "api_key", "file": "api_key_file"}
        for nearer, farther, key in (("file", "key", "hush"), ("key", "file", "k")):
            flags = {names[nearer]: given[nearer]}
            env = {f"CHATPAGER_{names[farther].upper()}": given[farther]}
            assert load(flags, env=env).server.api_key == key
            file(f'[server]\n{names[farther]} = "{given[farther]}"\n')
            assert load(flags, env={}).server.api_key == key
            assert load({}, env={f"CHATPAGER_{names[nearer].upper()}": given[nearer]}).server.api_key == key
            file("")
        assert load({"api_key": "k", "api_key_file": "key"}, env={}).server.api_key == "k"

    def test_where_it_came_from_is_told(self, folder):
        (folder / "key").write_text("hush")
        (folder / "key").chmod(0o600)
        assert load({"api_key_file": "key"}, env={}).sources["api_key"] == "key (--api-key-file)"
        assert load({"api_key_file": "key"}, env={"CHATPAGER_API_KEY": ""}).server.api_key == "hush"
        assert load({"api_key": ""}, env={"CHATPAGER_API_KEY_FILE": "key"}).server.api_key is None

    def test_one_of_ours_that_everybody_may_read_is_refused(self, folder, monkeypatch):
        key = folder / "key"
        key.write_text("hush")
        for mode, taken in ((0o604, False), (0o644, False), (0o640, True), (0o600, True)):
            key.chmod(mode)
            if taken:
                assert load({"api_key_file": "key"}, env={}).server.api_key == "hush"
            else:
                assert "chmod 600 key" in wrong(flags={"api_key_file": "key"}).problem
        key.chmod(0o444)
        monkeypatch.setattr("os.geteuid", lambda: key.stat().st_uid + 1)
        assert load({"api_key_file": "key"}, env={}).server.api_key == "hush", "whoever mounted it made it so"

    def test_and_so_are_settings_of_ours_with_a_key_in_them(self, file, folder):
        file('[server]\napi_key = "hush"\n')
        for mode, taken in ((0o644, False), (0o640, True)):
            (folder / "chatpager.toml").chmod(mode)
            if taken:
                assert load({}, env={}).server.api_key == "hush"
            else:
                assert "chmod 600 chatpager.toml" in wrong().problem and "hush" not in str(wrong())
                assert load({"api_key": "k"}, env={}).server.api_key == "k", "it is not the server's"

    @pytest.mark.parametrize("url", ["postgresql://me:hush@db/chats", "postgresql://db/chats?user=me&password=hush"])
    def test_nor_may_everybody_read_the_password_of_a_database(self, file, folder, url):
        file(f'[store]\ndatabase_url = "{url}"\n')
        (folder / "chatpager.toml").chmod(0o644)
        refused = wrong()
        assert (refused.name, "chmod 600 chatpager.toml" in refused.problem) == ("database_url", True)
        assert "hush" not in str(refused)
        (folder / "chatpager.toml").chmod(0o640)
        assert load({}, env={}).store.database_url == url
        file('[store]\ndatabase_url = "postgresql://me@db/chats"\n')
        (folder / "chatpager.toml").chmod(0o644)
        assert load({}, env={}).store.database_url == "postgresql://me@db/chats", "there is none in it"

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(None, "No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"a\nb", "one line"), (b"\xff", "UTF-8")],
    )
    def test_what_cannot_be_one_is_refused_and_not_shown(self, folder, content, problem):
        if content is not None:
            (folder / "key").write_bytes(content)
        refused = wrong(flags={"api_key_file": "key"})
        assert (refused.name, refused.value, refused.source) == ("api_key_file", "key", "--api-key-file")
        assert problem in refused.problem


class TestArgumentsInPython:
    """``LLM(...)`` takes the engine's settings as arguments."""

    def test_they_are_checked_and_converted(self):
        made = check_engine(
            EngineConfig(seed=1), {"block_size": 32, "gpu_memory_utilization": 1, "max_model_len": None}
        )
        assert made == EngineConfig(seed=1, block_size=32, gpu_memory_utilization=1.0)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"block_sise": 16}, "block_sise (from argument): no such setting; did you mean 'block_size'?"),
            ({"port": 8000}, "port (from argument): no such setting"),
            ({"block_size": 5}, "block_size = 5 (from argument): must be a multiple of 8 (8, 16, 32, 64, 128, ...)"),
            ({"seed": True}, "seed = True (from argument): must be a whole number"),
            ({"seed": 1.5}, "seed = 1.5 (from argument): must be a whole number"),
            ({"max_num_seqs": None}, "max_num_seqs (from argument): must be a whole number"),
        ],
    )
    def test_what_is_wrong(self, given, said):
        with pytest.raises(ConfigError) as refused:
            check_engine(EngineConfig(), given)
        assert str(refused.value) == said


def test_help_names_every_choice():
    wrong = [(s.help, problem) for s in settings() if s.type is str and s.check and (problem := s.check("?"))]
    named = [(said, problem.removeprefix("must be one of ").split(", ")) for said, problem in wrong]
    named = [(said, choices) for said, choices in named if len(choices) > 1]  # others are told what is wrong
    assert len(named) == 7
    assert [(said, c) for said, choices in named for c in choices if c not in said] == []
