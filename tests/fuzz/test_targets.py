"""The targets of the fuzzers without the fuzzer: their seeds, and the same inputs made of them on every run."""

import gc
import importlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.mutating import mutated
from tests.processes import clean_env

CORPUS = Path(__file__).with_name("corpus")
RUNS = {"frames": 4000, "resume": 4000, "config": 1500, "template": 1500, "kv_header": 1500}
MOST_KEPT = 0.5
"""Objects of an input, on the average."""


def run(one_input, data):
    try:
        return one_input(data)
    except BaseException as error:
        error.add_note(f"the input was {data!r}")
        raise


def run_mutations(one_input, seeds, runs, random):
    for _ in range(runs):
        data = random.choice(seeds)
        for _ in range(random.randint(1, 4)):
            data = mutated(data, random)
        run(one_input, data)


def target(name):
    return importlib.import_module(f"tests.fuzz.fuzz_{name}").one_input, [
        path.read_bytes() for path in sorted((CORPUS / name).iterdir())
    ]


@pytest.fixture
def unlogged():
    """Or pytest would keep what is logged. Both calls also forget what each logger remembers of its level."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("unlogged")
@pytest.mark.parametrize("name", RUNS)
def test_only_typed_errors_escape(name):
    one_input, seeds = target(name)
    taken = {run(one_input, seed) for seed in seeds}
    assert taken == {True, False}, "seeds of both kinds, or what is behind the first check is never reached"
    run_mutations(one_input, seeds, RUNS[name], Random(name))


def kept_of_each(name):
    """Objects that stay of an input, on the average: the least of three runs, for what is met for the first time may
    stay once. Wants a process of its own: threads and a tracer keep some, too."""
    logging.disable(logging.CRITICAL)
    (one_input, seeds), random, part, kept = target(name), Random(name), RUNS[name] // 4, []
    for _ in range(4):
        gc.collect()
        before = sys.getallocatedblocks()
        run_mutations(one_input, seeds, part, random)
        gc.collect()
        kept.append((sys.getallocatedblocks() - before) / part)
    return min(kept[1:])


def test_nothing_is_kept_of_an_input(tmp_path):
    count = "import json; from tests.fuzz.test_targets import *; print(json.dumps({n: kept_of_each(n) for n in RUNS}))"
    done = subprocess.run([sys.executable, "-c", count], env=clean_env(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout)
    assert set(kept) == set(RUNS) and max(kept.values()) < MOST_KEPT, kept


def test_what_escapes_is_seen_with_its_input():
    def fragile(data):
        if data.endswith(b"[[[]]]}") or b"\xff" in data:
            raise KeyError

    for seeds in ([b'{"a": 1}'], [b"plain"]):
        with pytest.raises(KeyError) as escaped:
            run_mutations(fragile, seeds, 2000, Random(0))
        assert escaped.value.__notes__[0].startswith("the input was b")


def test_there_is_a_target_for_every_corpus():
    targets = {path.stem.removeprefix("fuzz_") for path in CORPUS.parent.glob("fuzz_*.py")}
    assert targets == set(RUNS) == {path.name for path in CORPUS.iterdir()}
