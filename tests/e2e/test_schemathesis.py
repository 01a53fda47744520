"""Schemathesis draws requests from ``/openapi.json`` and sends them to a server with the fake engine: none makes it
fail, and every answer is one that the description has. A few of each route; ``make test-reliability`` sends more."""

import os
import subprocess
import sys

from tests.e2e.fetching import fetched, pip_into
from tests.processes import serving

EXAMPLES = os.environ.get("CHATPAGER_EXAMPLES", "2")
PHASES = "examples,coverage,fuzzing" if "CHATPAGER_EXAMPLES" in os.environ else "examples,fuzzing"
"""What covers every bound of every field takes minutes."""
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method",
)  # fmt: skip
SECONDS = 550


def test_no_request_that_is_drawn_makes_it_fail(fork_server, tmp_path):
    folder = fetched("schemathesis-4.32", pip_into("schemathesis==4.32.5"), "schemathesis")
    with serving(
        fork_server, tmp_path, "--engine", "fake", "--test-mode", "--fake-tokens-per-second", "10000"
    ) as server:
        told = [
            f"{server.url}/openapi.json", "--checks", ",".join(CHECKS), "--max-examples", EXAMPLES, "--seed", "1",
            "--generation-database", "none", "--request-timeout", "60", "--phases", PHASES,
            "--exclude-path", "/v1/admin/live", "--exclude-path", "/v1/admin/drain",
            "--no-color", "--continue-on-failure",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", *told],
            env={**os.environ, "PYTHONPATH": str(folder)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert server.get("/health")["status"] == "ok"
