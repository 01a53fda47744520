"""No assert decides what comes of an input: with ``python -O``, which drops them, everything is refused as ever."""

import subprocess
import sys

from tests.processes import ROOT, clean_env

READERS = [
    "tests/server/test_requests.py", "tests/server/test_input_items.py", "tests/server/test_formats.py",
    "tests/server/test_tools.py", "tests/server/test_protocol.py", "tests/engine/test_sampling_params.py",
]  # fmt: skip
OF_OUR_OWN = "not test_the_table_of_states_is_the_whole_truth"
"""It makes calls that no client can cause; an assert is what finds those."""


def test_inputs_are_refused_without_asserts(tmp_path):
    """pytest's own asserts are made of other statements, and stay."""
    run = [
        sys.executable,
        "-O",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestConfigWarning",
    ]
    done = subprocess.run(
        [*run, "-k", OF_OUR_OWN, *READERS],
        cwd=ROOT,
        env=clean_env(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


def test_without_asserts_pytest_still_sees_what_fails(tmp_path):
    (tmp_path / "test_it.py").write_text("import sys\ndef test_it():\n    assert not sys.flags.optimize\n")
    run = [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path)]
    done = subprocess.run(run, cwd=tmp_path, env=clean_env(tmp_path), capture_output=True, text=True)
    assert done.returncode == 1 and "assert not 1" in done.stdout
