"""The servers that are measured: those that run somewhere, and those that are started here and stopped with all of
their processes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import shlex
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from chatpager.bench import accounting, machine, server
from chatpager.bench.completions import PeerError, Refused, Target, ask
from chatpager.engine.thread_choice import without_our_policy
from chatpager.errors import ConfigError

STOP_SECONDS = 30.0
POLL_SECONDS = 0.2
TAIL = 2000
"""Characters of a log that a failure shows."""
SELF = "chatpager"
HELLO = [{"role": "user", "content": "Say something."}]


@dataclass
class Peer:
    """A column of the results. One without ``command`` runs already, at ``url``."""

    name: str
    url: str = ""
    command: tuple[str, ...] = ()
    """Its words, with ``{port}`` and ``{model}`` to be filled in."""
    told: str = ""
    """The command line as the results have it, if not word by word."""
    env: Mapping[str, str] | None = None
    log: Path | None = None
    keeps_log: bool = True
    """Whether the log outlives the measurement."""
    api_key: str | None = None
    target: Target | None = None
    """Known once it was asked something."""
    process: subprocess.Popen[bytes] | None = None
    version: str = ""
    peak_bytes: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def group(self) -> int | None:
        return self.process.pid if self.process else None

    def note(self, text: str) -> None:
        """Once a kind: what stands before the first comma or colon."""
        kind = re.split("[,:]", text, maxsplit=1)[0]
        if not any(note.startswith(kind) for note in self.notes):
            self.notes.append(text)

    def environment(self) -> dict[str, str]:
        """Without what this program has set for itself: another's threads wait as they would without us."""
        return without_our_policy(os.environ if self.env is None else self.env)

    def facts(self) -> dict[str, Any]:
        """For the results."""
        return {
            **({"command": self.told or shlex.join(self.command)} if self.command else {"url": self.url}),
            "model": self.target.model if self.target else None,
            "version": self.version or None,
            "environment": machine.threading(self.environment()) if self.command else None,
            "peak_resident_mib": round(self.peak_bytes / (1 << 20)) or None,
            "notes": self.notes,
        }


def parse(option: str, pairs: Sequence[str]) -> dict[str, str]:
    """``name=value`` pairs of an option that may be repeated.

    Raises:
        ConfigError: a pair has no name or no value, or a name came before.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, _, value = (part.strip() for part in pair.partition("="))
        if not (name and value and "/" not in name):
            raise ConfigError(option, f"write --{option} name=value, such as {EXAMPLES[option]}", value=pair)
        if name in found:
            raise ConfigError(option, f"two servers have the name {name!r}; give each its own", value=pair)
        found[name] = value
    return found


EXAMPLES = {
    "url": "vllm=http://127.0.0.1:8001",
    "start": "'vllm=vllm serve {model} --port {port}'",
}


def running(pairs: Sequence[str], api_key: str | None) -> list[Peer]:
    """The peers of ``--url``. Raises ConfigError."""
    found = []
    for name, url in parse("url", pairs).items():
        if not url.startswith(("http://", "https://")):
            raise ConfigError("url", f"an address begins with http://, such as {EXAMPLES['url']}", value=url)
        found.append(Peer(name, url=url.rstrip("/").removesuffix("/v1"), api_key=api_key))
    return found


def started(pairs: Sequence[str]) -> list[Peer]:
    """The peers of ``--start``. Raises ConfigError."""
    found = []
    for name, line in parse("start", pairs).items():
        words = _words("start", line)
        if not any("{port}" in word for word in words):
            raise ConfigError("start", f"say where the port goes, such as {EXAMPLES['start']}", value=line)
        found.append(Peer(name, command=words))
    return found


def _words(option: str, line: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(line))
    except ValueError as error:
        raise ConfigError(option, f"not a command line: {error}", value=line) from None


def ourselves(data: Path, flags: str) -> Peer:
    """chatpager, with nothing of the user's own settings or data; ``data`` is its folder. Raises ConfigError."""
    command, env = server.command(Path("{model}"), data, "{port}", *_words("self_flags", flags))
    return Peer(
        SELF, command=tuple(command), env=env, told=f"chatpager serve {{model}} --port {{port}} {flags}".strip()
    )


@asynccontextmanager
async def serving(
    peer: Peer, model: Path | None, logs: Path, client: aiohttp.ClientSession, seconds: float
) -> AsyncIterator[Peer]:
    """The peer, ready: started if it has a command, known by its answers, stopped afterwards.

    Raises:
        PeerError: it did not start within ``seconds``, or does not answer as a server that can be measured.
    """
    if not peer.command:
        peer.target = await _known(peer, client)
        yield peer
        return
    port = server.free_port()
    filled = [w.replace("{port}", str(port)).replace("{model}", str(model)) for w in peer.command]
    peer.url, peer.log = f"http://127.0.0.1:{port}", logs / f"{peer.name}.log"
    with peer.log.open("ab") as out:
        try:
            peer.process = subprocess.Popen(  # noqa: ASYNC220
                filled, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=peer.environment(), start_new_session=True
            )
        except OSError as error:
            raise PeerError(
                f"{peer.name} cannot be started: {filled[0]}: {error.strerror}; is it installed?"
            ) from error
    try:
        await _wait(peer, client, seconds)
        peer.target = await _known(peer, client)
        yield peer
    finally:
        await _stop(peer)


async def _wait(peer: Peer, client: aiohttp.ClientSession, seconds: float) -> None:
    """Until it says that it is ready, by /health or by a list of models."""
    assert peer.process is not None
    try:
        async with asyncio.timeout(seconds):
            while peer.process.poll() is None:
                for path in ("/health", "/v1/models"):
                    with suppress(aiohttp.ClientError, TimeoutError):
                        async with client.get(peer.url + path, timeout=aiohttp.ClientTimeout(10)) as response:
                            if response.status == 200:
                                return
                            if path == "/health" and response.status == 503:
                                break  # it loads, and says so
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise PeerError(
            f"{peer.name} was not ready after {seconds:g} s (--start-seconds waits longer); its log ends:\n{tail(peer)}"
        ) from None
    raise PeerError(f"{peer.name} ended at its start with {peer.process.returncode}; its log ends:\n{tail(peer)}")


def tail(peer: Peer) -> str:
    text = peer.log.read_text(errors="replace").strip()[-TAIL:] if peer.log else ""
    return f"{text or '(it wrote nothing)'}\n({peer.log if peer.keeps_log else '--out keeps the whole log'})"


async def exit_code(peer: Peer) -> int | None:
    """Of a server that has just died: its sockets close a moment before it is gone. None if it lives or is not ours."""
    if peer.process is None:
        return None
    with suppress(subprocess.TimeoutExpired):
        return await asyncio.to_thread(peer.process.wait, 1.0)
    return None


async def _stop(peer: Peer) -> None:
    """All processes of its group and session: politely, then not."""
    process = peer.process
    if process is None:
        return
    remember_peak(peer)
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        for pid in accounting.members(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while process.poll() is None or accounting.members(process.pid):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_SECONDS / 4)
                break
    peer.process = None


def remember_peak(peer: Peer) -> None:
    if peer.group:
        peer.peak_bytes = max(peer.peak_bytes, accounting.peak_bytes(peer.group))


async def _known(peer: Peer, client: aiohttp.ClientSession) -> Target:
    """Its model's name, its version, and whether it takes ``ignore_eos``: asked, not assumed."""
    target = Target(peer.name, peer.url, api_key=peer.api_key)
    target = dataclasses.replace(target, model=await _model(target, client))
    try:
        answer = await ask(client, target, HELLO, 8)
    except Refused as error:
        if not 400 <= error.status < 500:
            raise
        target = dataclasses.replace(target, ignore_eos=False)
        answer = await ask(client, target, HELLO, 8)
        peer.note("it refuses ignore_eos: answers end where the model ends them")
    peer.version = await _version(target, client) or answer.version
    return target


async def _model(target: Target, client: aiohttp.ClientSession) -> str:
    url = f"{target.url}/v1/models"
    hint = f"an OpenAI-compatible server lists its models at {url}; check the address and the key (--api-key)"
    try:
        async with client.get(url, headers=target.headers, timeout=aiohttp.ClientTimeout(60)) as response:
            status = response.status
            found: Any = await response.json(content_type=None) if response.ok else None
    except (aiohttp.ClientError, TimeoutError) as error:
        told = str(error) or type(error).__name__
        raise PeerError(f"{target.name} cannot be reached: {told}; is it running at {target.url}?") from error
    except ValueError:
        raise PeerError(f"{target.name} has no list of models: the answer is not JSON; {hint}") from None
    if status != 200:
        raise PeerError(f"{target.name} has no list of models (status {status}); {hint}")
    with suppress(KeyError, IndexError, TypeError):
        return str(found["data"][0]["id"])
    raise PeerError(f"{target.name} has no list of models: {str(found)[:200]}; {hint}")


async def _version(target: Target, client: aiohttp.ClientSession) -> str:
    """As far as it tells: vLLM and chatpager at /version, llama.cpp at /props, others perhaps in a header."""
    told = ""
    for path, key in (("/version", "version"), ("/props", "build_info")):
        with suppress(aiohttp.ClientError, TimeoutError, ValueError, AttributeError):
            async with client.get(
                target.url + path, headers=target.headers, timeout=aiohttp.ClientTimeout(10)
            ) as response:
                told = told or response.headers.get("Server", "")
                if response.ok and (version := (await response.json(content_type=None)).get(key)):
                    return str(version)
    return told
