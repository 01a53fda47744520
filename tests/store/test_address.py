import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chatpager.errors import ConfigError
from chatpager.store import address


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///x.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:////tmp/x.db", "sqlite+aiosqlite"),
        ("postgres://u@h/d", "postgresql+asyncpg"),
        ("postgresql://u@h/d", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg"),
    ],
)
def test_a_url_gets_the_driver_we_have(given, driver):
    assert address.parse(given).drivername == driver


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "postgresql+psycopg://u:secret@h/d", "oracle:///secret.db"])
def test_another_driver_is_refused_with_the_two_there_are(url):
    with pytest.raises(ConfigError, match=r"sqlite\+aiosqlite") as caught:
        address.parse(url)
    assert caught.value.name == "database_url"
    assert ":secret@" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "secret", "postgresql://u:secret@h:port/d"])
def test_what_cannot_be_read_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        address.parse(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_memory_is_no_place_to_keep_conversations(url):
    with pytest.raises(ConfigError, match="plain file"):
        address.parse(url)


def test_a_shown_url_has_no_password_anywhere():
    url = address.parse("postgresql://u:secret@h:5433/d?password=secret&sslpassword=secret&ssl=require")
    assert address.shown(url) == "postgresql+asyncpg://u:***@h:5433/d?ssl=require"


def test_a_place_is_a_file_or_a_url_without_its_password():
    assert address.place(address.parse("sqlite:////var/x.db")) == "/var/x.db"
    assert address.place(address.parse("postgresql://u:secret@h/d")) == "postgresql+asyncpg://u:***@h/d"


def test_the_file_of_a_url():
    assert address.file_of(address.parse("sqlite:////var/x.db")) == Path("/var/x.db")
    assert address.file_of(address.parse("sqlite:///x.db")) == Path("x.db")


def test_postgresql_without_its_driver_says_what_to_install():
    code = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "from chatpager.store import address\n"
        "address.parse('postgresql://u:secret@h/d')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ConfigError" in done.stderr
    assert "pip install asyncpg" in done.stderr
    [installer] = re.findall(r"(\S+) -m pip install", done.stderr.splitlines()[-1])
    assert os.path.samefile(installer, sys.executable)
    assert ":secret@" not in done.stderr.splitlines()[-1]
