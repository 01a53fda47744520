"""One frozen tree of settings. Order of precedence: flag, ``CHATPAGER_*`` variable, ``chatpager.toml``, default.

Every field is one setting with one flat name: ``block_size`` is ``--block-size``, ``CHATPAGER_BLOCK_SIZE`` and
``block_size`` under ``[engine]`` in the file. A wrong value raises ``ConfigError`` with its name and its source.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatpager.errors import ConfigError

KV_DTYPES = ("auto", "fp8", "int8")
REPLICA_WATCHDOG_SECONDS = 5.0
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


def setting(default: Any, help: str, *, check: Callable[[Any], str | None] | None = None) -> Any:
    """A dataclass field that knows how to explain and check itself; ``check`` returns the problem or None."""
    return field(default=default, metadata={"help": help, "check": check})


def _between(low: float, high: float) -> Callable[[Any], str | None]:
    return lambda v: None if v is None or low <= v <= high else f"must be between {low:g} and {high:g}"


def _at_least(low: float) -> Callable[[Any], str | None]:
    return lambda v: None if v is None or low <= v < math.inf else f"must be at least {low:g}"


def _one_of(*choices: str) -> Callable[[Any], str | None]:
    return lambda v: None if v in choices else f"must be one of {', '.join(choices)}"


def _fraction(v: float) -> str | None:
    return None if 0 < v <= 1 else "must be above 0 and at most 1"


def _share(v: float) -> str | None:
    return None if 0 <= v <= 1 else "must be between 0 and 1"


def _block_size(v: int) -> str | None:
    return None if v >= 8 and v % 8 == 0 else "must be a multiple of 8 (8, 16, 32, 64, 128, ...)"


def _port(v: int) -> str | None:
    return None if 0 <= v <= 65535 else "must be between 0 and 65535 (0 picks a free port)"


def _admin_port(v: int | None) -> str | None:
    return None if v is None else _port(v)


def _home_known(v: str) -> str | None:
    fine = not os.path.expanduser(v).startswith("~")
    return None if fine else "begins with the home folder of a user who has none"


def _sha256(v: str | None) -> str | None:
    fine = v is None or (len(v) == 64 and set(v.lower()) <= set("0123456789abcdef"))
    return None if fine else "must be a SHA-256 in 64 hexadecimal digits; `chatpager doctor` tells a model's"


def header_text(v: str | None) -> str | None:
    fine = v is None or (v.isascii() and v.isprintable())
    return None if fine else "must be printable ASCII on one line: it travels in a header"


@dataclass(frozen=True)
class EngineConfig:
    """What the engine is given. The names mean what vLLM's users expect."""

    model: str = setting(
        "", "folder with safetensors, config and tokenizer; serve also takes a name on the hub", check=_home_known
    )
    model_sha256: str | None = setting(
        None, "refuse every model but the one whose files have this digest, as doctor tells it", check=_sha256
    )
    dtype: str = setting("auto", f"weights and KV cache: {', '.join(DTYPES)}", check=_one_of(*DTYPES))
    quantization: str = setting(
        "none", "int8: linears' weights in eight bits, on a CPU; none", check=_one_of("none", "int8")
    )
    engine: str = setting(
        "torch", "torch; fake: words without a model, for tests, with test_mode", check=_one_of("torch", "fake")
    )
    fake_tokens_per_second: float = setting(
        0.0, "of each sequence of the fake engine; 0: as fast as it goes", check=_at_least(0)
    )
    device: str = setting("auto", "auto, cpu or cuda", check=_one_of("auto", "cpu", "cuda"))
    kv_cache_dtype: str = setting(
        "auto", "KV cache: auto: as dtype; fp8 (e4m3), int8: in eight bits, with scales", check=_one_of(*KV_DTYPES)
    )
    block_size: int = setting(16, "tokens in one KV block", check=_block_size)
    max_model_len: int | None = setting(None, "longest prompt plus answer, in tokens", check=_at_least(1))
    max_num_seqs: int = setting(256, "sequences in one step at the most", check=_at_least(1))
    max_num_batched_tokens: int = setting(8192, "tokens in one step at the most", check=_at_least(1))
    step_seconds: float = setting(
        1.0, "how long prompts in a step may hold up those who decode; 0: as long as it takes", check=_at_least(0)
    )
    gpu_memory_utilization: float = setting(0.9, "share of the device's memory to use", check=_fraction)
    num_kv_blocks: int | None = setting(
        None, "fix the size of the KV pool, in blocks; one of them is never used", check=_at_least(3)
    )
    swap_space: float = setting(
        1.0, "host memory for KV blocks that the device gave up, in GiB; 0: none", check=_at_least(0)
    )
    kv_dir: str = setting(
        "", "folder for conversations' KV blocks on disk; default: none, serve: kv in data_dir", check=_home_known
    )
    kv_key_file: str = setting(
        "", "file with a secret that KV blocks on disk are encrypted with (AES-256-GCM)", check=_home_known
    )
    disk_space: float = setting(2.0, "disk for KV blocks in kv_dir, in GiB; 0: none", check=_at_least(0))
    tensor_parallel_size: int = setting(
        1, "GPUs, or processes on a CPU, that a model is split over; divides its heads", check=_between(1, 64)
    )
    lease_share: float = setting(0.5, "share of the KV blocks that hard leases may keep", check=_share)
    known_conversations: int = setting(
        65_536, "idle conversations whose place in the cache is known, about 6 KiB of memory each", check=_at_least(1)
    )
    enable_prefix_caching: bool = setting(True, "reuse the KV blocks of shared prefixes")
    seed: int | None = setting(
        None, "seed of requests that bring none; default: a new one each start", check=_at_least(0)
    )
    overlap: str = setting(
        "auto",
        "launch a step before the tokens of the one before are known: on, off, or auto, which is on a GPU",
        check=_one_of("auto", "on", "off"),
    )
    cuda_graphs: bool = setting(True, "on a GPU, launch steps of one token each as graphs, captured at the start")
    num_threads: int | None = setting(
        None, "threads of a step on a CPU; default: tried while it runs", check=_between(1, 1024)
    )


@dataclass(frozen=True)
class ServerConfig:
    """Where and for whom the server listens."""

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8000, "port to listen on", check=_port)
    admin_port: int | None = setting(
        None, "port of its own for what is for admins, which the other then has not; default: none", check=_admin_port
    )
    admin_host: str = setting("127.0.0.1", "address for admin_port")
    api_key: str | None = setting(
        None, "an admin's key; any address but loopback needs one, or one of `chatpager keys`", check=header_text
    )
    api_key_file: str = setting(
        "", "file whose text is the API key: no process list and no variable shows it", check=_home_known
    )
    insecure: bool = setting(False, "allow an address other than loopback without an API key")
    allowed_origins: str = setting("", "more origins and hosts that browsers may use, comma separated")
    served_model_name: str | None = setting(None, "name of the model on the wire; default: the folder's name")
    max_queue: int = setting(1024, "turns waiting or running at the most", check=_at_least(1))
    max_queue_per_tenant: int | None = setting(
        None, "of them one tenant's at the most; default: as many as leave others room", check=_at_least(1)
    )
    max_sockets: int = setting(10_000, "WebSockets open at the most", check=_at_least(1))
    max_sockets_per_tenant: int | None = setting(
        None, "of them one tenant's at the most; default: as many as leave others room", check=_at_least(1)
    )
    requests_per_minute: int | None = setting(
        None, "that one tenant may send, answers asked for on WebSockets too; default: any number", check=_at_least(1)
    )
    tokens_per_minute: int | None = setting(
        None, "of one tenant's prompts and answers, cached ones too; default: any number", check=_at_least(1)
    )
    max_conversations: int | None = setting(
        None, "conversations that one tenant may have; default: any number", check=_at_least(0)
    )
    max_forks: int = setting(4096, "conversations that come of one by forking, at the most", check=_at_least(0))
    max_message_bytes: int = setting(4 << 20, "largest request body or frame, in bytes", check=_at_least(1024))
    max_pending_bytes: int = setting(
        256 << 20,
        "of bodies and frames that arrive or are dealt with, all connections together; 64 KiB of each are free",
        check=_at_least(0),
    )
    drain_seconds: float = setting(30.0, "time for running turns to end at shutdown", check=_at_least(0))
    detach_grace: float = setting(
        60.0, "seconds that an answer which can be found again goes on without a reader", check=_at_least(0)
    )
    ws_max_age: float = setting(0.0, "seconds that a WebSocket may stay open; 0: any number", check=_at_least(0))
    engine_process: bool | None = setting(
        None, "run the engine in a process of its own, which is started again if it dies; default: on a GPU"
    )
    replicas: int = setting(
        1, "engines, each in a process of its own with a KV cache of its own", check=_between(1, 64)
    )
    ray_address: str | None = setting(
        None, "Ray cluster that the engines run in: auto, host:port, or local to start one here; default: none"
    )
    ray_name: str = setting("chatpager", "name of these engines' actors in the cluster")
    watchdog_seconds: float | None = setting(
        None,
        "end the engine's process, exit code 70 if it is the server's, when a step takes longer; 0: never; default: 5"
        " where there are several replicas, 0 elsewhere",
        check=_at_least(0),
    )
    log_format: str = setting("console", "console or json", check=_one_of("console", "json"))
    log_content: bool = setting(False, "write what people and the model say into the log, too")
    test_mode: bool = setting(False, "allow what is for tests alone: the fake engine; as a variable, failpoints too")

    def resolved_watchdog_seconds(self) -> float:
        """Where there are several replicas, what one that hangs was answering goes on with another."""
        if self.watchdog_seconds is not None:
            return self.watchdog_seconds
        return REPLICA_WATCHDOG_SECONDS if self.replicas > 1 else 0.0


@dataclass(frozen=True)
class StoreConfig:
    """Where conversations are kept."""

    data_dir: str = setting(
        "", "folder for the database; default: chatpager under the user's data folder", check=_home_known
    )
    database_url: str = setting("", "SQLAlchemy URL (sqlite+aiosqlite or postgresql+asyncpg); default: in data_dir")

    share_database: bool = setting(
        False, "other servers that share it may have the PostgreSQL database, too; conversations have owners"
    )

    def resolved_data_dir(self) -> Path:
        """Raises ConfigError: it was not given, and there is no home for the default."""
        if self.data_dir:
            return Path(self.data_dir).expanduser()
        home = os.path.expanduser(os.environ.get("XDG_DATA_HOME") or "~/.local/share")
        if home.startswith("~"):
            raise ConfigError("data_dir", "has no default for a user without a home folder; give one")
        return Path(home) / "chatpager"

    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite+aiosqlite:///{self.resolved_data_dir() / 'chatpager.db'}"


@dataclass(frozen=True)
class Config:
    engine: EngineConfig = field(default_factory=EngineConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Setting's name -> where its value came from; a name that is absent has its default."""
