"""What is in a server's way is found by taking its addresses for a moment, and let go again."""

import socket

import pytest

from chatpager.cli.listening import cannot_listen
from chatpager.config import ServerConfig


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", ""])
def test_a_port_that_somebody_listens_at(taken, host):
    problem = cannot_listen(ServerConfig(host=host, port=taken))
    assert (problem.name, problem.value) == ("port", taken)
    assert problem.problem.endswith("; choose another with --port")


@pytest.mark.parametrize("host", ["192.0.2.1", "nonsense.invalid", "a..b", "x" * 300])
def test_a_host_that_is_not_this_machine_s(host):
    problem = cannot_listen(ServerConfig(host=host, port=0))
    assert (problem.name, problem.value) == ("host", host)
    assert problem.problem.endswith("; give an address of this machine with --host")


def test_what_was_tried_is_free_again():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for _ in range(2):
        assert cannot_listen(ServerConfig(port=port)) is None
    with socket.create_server(("127.0.0.1", port)) as listener:
        assert listener.getsockname()[1] == port


def test_a_name_needs_only_one_address_of_this_machine(monkeypatch):
    """As ``localhost`` where there is no IPv6."""
    known = socket.getaddrinfo

    def both(host, *rest, **more):
        return [*known("192.0.2.1", *rest, **more), *known("127.0.0.1", *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert cannot_listen(ServerConfig(host="both.invalid", port=0)) is None
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: both(host, *rest, **more)[:1])
    assert cannot_listen(ServerConfig(host="both.invalid", port=0)).name == "host"
