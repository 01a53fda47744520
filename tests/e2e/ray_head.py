"""The head of a Ray cluster on this machine, as its operator starts it: with a token, without a dashboard."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT, free_port


class RayHead:
    """``folder``: short, for Ray puts sockets into it. It is to be started, and again after ``close``."""

    def __init__(self, folder, cpus):
        self._folder, self._cpus = folder, cpus
        token = folder / "token"
        token.write_text("0" * 64)
        token.chmod(0o600)
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        self.address = f"127.0.0.1:{free_port()}"

    def start(self):
        command = [Path(sys.executable).with_name("ray"), "start", "--head", "--include-dashboard=false"]
        options = {
            "port": self.address.partition(":")[2],
            "node-ip-address": "127.0.0.1",
            "num-cpus": self._cpus,
            "object-store-memory": 200 << 20,
            "temp-dir": self._folder / "ray",
        }
        command += [f"--{name}={value}" for name, value in options.items()]
        env = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self, name=""):
        """Ids of those that have the folder in their command line, and of their children."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it has ended
                continue
            if str(self._folder / "ray") in line and name in line.partition("\0")[0]:
                found.append(int(process.name))
        return found

    def kill_gcs(self):
        """What knows the actors and makes them again; it has no other."""
        [pid] = self.processes("gcs_server")
        os.kill(pid, signal.SIGKILL)

    def close(self):
        """All that is left of it; actors end with the process that started them."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
