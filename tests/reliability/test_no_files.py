"""A server at the system's own limit on open files: who is there notices nothing, and who comes is served when others
have left."""

import http.client
import json
import os
import resource
import socket

from tests.descriptors import none_left
from tests.gate import DEADLINE
from tests.processes import serving

FLAGS = ("--engine", "fake", "--test-mode", "--num-kv-blocks", "1024")
SCHEMA = {"type": "json_schema", "name": "yes", "schema": {"type": "boolean"}}


def ask(connection):
    connection.request("POST", "/v1/responses", json.dumps({"input": "Hello", "max_output_tokens": 5}))
    with connection.getresponse() as answer:
        return json.load(answer)["status"]


def test_the_system_s_limit_is_survived(fork_server, tmp_path):
    with serving(fork_server, tmp_path, *FLAGS) as server:
        pid, address = server.process.pid, ("127.0.0.1", int(server.url.rpartition(":")[2]))
        there = http.client.HTTPConnection(*address, timeout=DEADLINE)
        assert ask(there) == "incomplete"
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir(f"/proc/{pid}/fd")))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 3, before[1]))
        crowd = [socket.create_connection(address, timeout=DEADLINE) for _ in range(100)]
        try:
            assert ask(there) == "incomplete"
        finally:
            for one in crowd:
                one.close()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert server.get("/v1/models")["data"], "it comes back by itself"
        with none_left(pid):
            assert ask(there) == "incomplete"
            there.request("GET", "/metrics")
            assert b"chatpager_tasks " in there.getresponse().read()
            there.request("POST", "/v1/responses", json.dumps({"input": "Hello", "text": {"format": SCHEMA}}))
            with there.getresponse() as refused:
                assert (refused.status, json.load(refused)["error"]["code"]) == (503, "server_is_overloaded")
            assert refused.headers["retry-after"] == "1", "no process can be started that tries the grammar"
        assert ask(there) == "incomplete"
        there.close()
        assert server.stop() == 0
