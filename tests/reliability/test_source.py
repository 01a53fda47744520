"""What the code must not contain, wherever it stands."""

import ast
import re

import pytest

from tests.processes import ROOT

FILES = sorted((ROOT / "chatpager").rglob("*.py"))
RUNS_WHAT_IT_READS = {"cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve", "yaml"}
"""Modules that turn bytes into code or into objects of any class."""
FETCHES = {"http.client", "httpx", "huggingface_hub", "requests", "urllib.request", "urllib3"}
"""Modules that ask other servers."""
CONNECTS = {
    "create_connection",
    "create_datagram_endpoint",
    "create_unix_connection",
    "open_connection",
    "sock_connect",
}
"""Calls that do so themselves, also of an event loop that no audit hook hears of."""
ASKS_OTHERS = {"bench", "cli", "client"}
"""Rooms that may: they are clients, and ``serve NAME`` fetches a model of the hub."""
OUR_TORCH_LOAD = (
    "demo/train.py",
    "torch.load(self.out / 'checkpoint.pt', weights_only=True, map_location=self.device)",
)
"""A checkpoint of the training's own, and nothing that a server reads."""
SECRET = re.compile(r"(.*_)?(key|secret|digest|password|token|salt)")
HARMLESS = {
    ("server/keyring.py", "digest == NO_KEY"),
    ("store/keys.py", "api_keys.c.digest == digest"),
    ("store/turns.py", "digest == turn.request.get('sent')"),
    ("store/turns.py", "turns.c.client_key == client_key"),
}
"""Comparisons of no secret: with what stands for no key, of what a request asks for, and look-ups by an index, of a
key's SHA-256 and of a client's own name for its request."""


WALL_CLOCKS = ("time.time(", "time.time_ns(", "datetime.now(", "datetime.datetime.now(", "datetime.utcnow(")
STAMPS = {
    ("engine/template_sandbox.py", "datetime.now()"),  # templates write today's date
    ("engine/template_sandbox.py", "datetime.now().strftime(format[:100])"),
    ("server/keyring.py", "time.time_ns()"),  # when a key expires is a date
    ("sessions/hub.py", "time.time_ns()"),
    ("cli/serving.py", "time.time_ns()"),
    ("cli/keys.py", "time.time_ns()"),
}
"""The hub's argument ``wall``, when the server was started, and when a key was made, revoked or expires."""


WAITS = {
    *("acquire", "close", "connect", "drain", "pong", "prepare", "read", "readline", "receive", "send_bytes"),
    *("send_frame", "send_str", "wait", "wait_closed", "write", "write_eof"),
}
"""Methods that wait for somebody else: for a client, for a disk, for another task."""
BOUNDED = {
    (None, "request.read()"): "the body is there: whole_body read it, in its time",
    ("server/app.py", "service.store.close()"): "at the server's end, when nobody uses it",
    ("server/app.py", "service.hub.drain(service.config.drain_seconds)"): "in that time",
    ("server/app.py", "service.hub.close()"): "at the server's end: the engine ends its step, the store what it writes",
    ("server/responses_socket.py", "super().prepare(request)"): "the first bytes of a connection are taken at once",
    ("server/websocket.py", "ws.prepare(request)"): "the same",
    ("server/responses_socket.py", "self.close(code=code, message=reason.encode())"): "it has two deadlines of its own",
    (
        "server/websocket.py",
        "self._ws.close(code=WSCloseCode.SERVICE_RESTART, message=b'the server is restarting')",
    ): "the same",
    ("server/sse.py", "response.prepare(request)"): "the same",
}
"""By file and words, those without a deadline of their own."""


def waits_without_a_deadline(tree, file):
    """In the server's floor: outside of ``asyncio.timeout``, and without one as an argument."""
    if file.partition("/")[0] != "server":
        return
    timed = {
        inside
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith) and any("timeout(" in ast.unparse(item) for item in node.items)
        for inside in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Await) and isinstance(node.value, ast.Call) and node not in timed:
            words = ast.unparse(node.value)
            given = any(argument.arg == "timeout" for argument in node.value.keywords)
            if (
                last_name(node.value.func) in WAITS
                and not given
                and not {(None, words), (file, words)} & BOUNDED.keys()
            ):
                yield words


def name_of(path):
    return str(path.relative_to(ROOT / "chatpager"))


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def runs_what_it_reads(tree, file):
    """Places at which bytes from elsewhere could become code."""
    yield from (name for name in imported(tree) if name.partition(".")[0] in RUNS_WHAT_IT_READS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            call = ast.unparse(node)
            if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "__import__"):
                yield call
            if call.startswith("torch.load(") and (file, call) != OUR_TORCH_LOAD:
                yield call
            for wish in node.keywords:
                if wish.arg == "trust_remote_code" and ast.unparse(wish.value) != "False":
                    yield call


def fetches(tree, file):
    """Means of asking other servers, in rooms that ask none."""
    if file.partition("/")[0] not in ASKS_OTHERS:
        yield from (name for name in imported(tree) if name in FETCHES or name == "aiohttp.ClientSession")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and last_name(node.func) in CONNECTS:
                yield ast.unparse(node)


def last_name(node):
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def compares_secrets(tree, file):
    """``==`` and ``!=``, which take the longer the more is right, on what is called like a secret."""
    if file.partition("/")[0] not in ("server", "sessions", "store", "config.py", "config_values.py"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            sides = [node.left, *node.comparators]
            if any(SECRET.fullmatch(last_name(side).lower()) for side in sides):
                found = ast.unparse(node)
                if (file, found) not in HARMLESS:
                    yield found


def looks_at_the_wall(tree, file):
    """The clock that may be set, where it is no stamp on what is stored; measurements are of their machine."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and file.partition("/")[0] not in ("bench", "demo"):
            call = ast.unparse(node)
            if call.startswith(WALL_CLOCKS) and (file, call) not in STAMPS:
                yield call


@pytest.fixture(scope="module")
def trees():
    return {name_of(path): ast.parse(path.read_text()) for path in FILES}


def found(trees, rule):
    return [(file, place) for file, tree in trees.items() for place in rule(tree, file)]


def test_nothing_turns_bytes_into_code(trees):
    assert found(trees, runs_what_it_reads) == []


def test_the_server_asks_no_other_server(trees):
    assert found(trees, fetches) == []


def test_secrets_are_compared_in_constant_time(trees):
    assert found(trees, compares_secrets) == []
    assert "hmac.compare_digest" in ast.unparse(trees["server/keyring.py"])
    assert "hmac.compare_digest" in ast.unparse(trees["store/keys.py"])


def test_deadlines_are_not_on_the_clock_on_the_wall(trees):
    assert found(trees, looks_at_the_wall) == []


def test_the_server_waits_for_nobody_without_a_deadline(trees):
    assert found(trees, waits_without_a_deadline) == []


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (runs_what_it_reads, "def f():\n    import pickle"),
        (runs_what_it_reads, "from yaml import load"),
        (runs_what_it_reads, "eval(text)"),
        (runs_what_it_reads, "torch.load(path)"),
        (runs_what_it_reads, "AutoModel.from_pretrained(path, trust_remote_code=wish)"),
        (fetches, "import urllib.request"),
        (fetches, "from aiohttp import ClientSession"),
        (fetches, "async def f(loop):\n    await loop.create_connection(Protocol, host, 80)"),
        (compares_secrets, "if sent == self.api_key: pass"),
        (compares_secrets, "return digest != found"),
        (looks_at_the_wall, "until = time.time() + 5"),
        (waits_without_a_deadline, "async def f():\n    await writer.drain()"),
        (waits_without_a_deadline, "async def f():\n    async with lock:\n        await ws.send_frame(b'')"),
    ],
)
def test_what_is_looked_for_is_found(rule, code):
    assert list(rule(ast.parse(code), "server/imagined.py"))
