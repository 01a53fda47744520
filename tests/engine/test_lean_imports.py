"""What a server never runs is not imported, is there for who asks for it, and is missed by no architecture."""

import importlib
import json
import subprocess
import sys
import threading

import pytest

from chatpager.engine import lean_imports
from chatpager.engine.architectures import SERVED
from chatpager.engine.lean_imports import put_off
from tests.gate import DEADLINE

LEAN = "from chatpager.engine import lean_imports; lean_imports.prepare(); "


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of which ``put_away`` is put off; what was run of it stands in ``ran.order``."""
    folder = tmp_path / "stuff"
    (folder / "put_away").mkdir(parents=True)
    (folder / "__init__.py").write_text("import stuff.put_away\nfrom stuff import put_away\n")
    (folder / "ran.py").write_text("order = []\n")
    (folder / "put_away" / "__init__.py").write_text(
        "from stuff import ran\nran.order.append('put_away')\nthing, mark = 1, 'own'\n"
        "def __getattr__(name):\n    if name == 'late':\n        return 2\n    raise AttributeError(name)\n"
    )
    (folder / "put_away" / "part.py").write_text(
        "from stuff import ran\nfrom stuff.put_away import thing\nran.order.append('part')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    put_off({"stuff.put_away": {"mark": "given"}})
    yield importlib.import_module("stuff")
    for name in [name for name in sys.modules if name.partition(".")[0] == "stuff"]:
        del sys.modules[name]


class TestPuttingOff:
    def order(self):
        return importlib.import_module("stuff.ran").order

    def test_what_nobody_asks_does_not_run(self, package):
        assert package.put_away is sys.modules["stuff.put_away"]
        assert importlib.import_module("stuff.put_away") is package.put_away
        assert package.put_away.mark == "given"
        assert self.order() == []

    def test_who_asks_for_something_has_it(self, package):
        assert package.put_away.thing == 1
        assert package.put_away.mark == "own"
        assert type(package.put_away) is type(sys)
        assert (package.put_away.late, self.order()) == (2, ["put_away"])

    def test_what_it_makes_up_is_there_too(self, package):
        assert (package.put_away.late, self.order()) == (2, ["put_away"])

    def test_what_it_lacks_it_lacks(self, package):
        with pytest.raises(AttributeError, match="nothing"):
            _ = package.put_away.nothing
        assert not hasattr(package.put_away, "__wrapped__")

    def test_a_dunder_is_no_reason_to_run(self, package):
        assert not hasattr(package.put_away, "__wrapped__")
        assert self.order() == []

    def test_with_a_part_of_it_comes_all_of_it(self, package):
        importlib.import_module("stuff.put_away.part")
        assert self.order() == ["put_away", "part"]

    def test_a_part_that_it_imports_itself_runs_once(self, package, tmp_path):
        file = tmp_path / "stuff" / "put_away" / "__init__.py"
        file.write_text(file.read_text() + "from stuff.put_away import part\n")
        part = importlib.import_module("stuff.put_away.part")
        assert self.order() == ["put_away", "part"]
        assert package.put_away.part is part is importlib.reload(part)
        assert self.order() == ["put_away", "part", "part"]

    def test_from_it_something_is_imported(self, package):
        exec("from stuff.put_away import thing")
        assert self.order() == ["put_away"]

    def test_what_cannot_run_says_so_each_time(self, package, tmp_path):
        file = tmp_path / "stuff" / "put_away" / "__init__.py"
        text = file.read_text()
        file.write_text("raise RuntimeError('broken')\n")
        for _ in range(2):
            with pytest.raises(RuntimeError, match="broken"):
                _ = package.put_away.thing
        file.write_text(text + "# mended\n")
        assert package.put_away.thing == 1

    def test_another_thread_waits_until_all_of_it_is_there(self, package, tmp_path):
        file = tmp_path / "stuff" / "put_away" / "__init__.py"
        file.write_text("from stuff import ran\nran.begun.set()\nran.go_on.wait()\nthing = 1\n")
        ran = importlib.import_module("stuff.ran")
        ran.begun, ran.go_on = threading.Event(), threading.Event()
        found = []
        first = threading.Thread(target=lambda: found.append(package.put_away.thing))
        second = threading.Thread(target=lambda: found.append(package.put_away.thing))
        first.start()
        assert ran.begun.wait(DEADLINE)
        second.start()
        ran.go_on.set()
        first.join(DEADLINE)
        second.join(DEADLINE)
        assert found == [1, 1]


CIRCLES = """
import json, sys, threading
from chatpager.engine.lean_imports import put_off
sys.path.insert(0, sys.argv[1])
import gate
class Asked:
    def find_spec(name, path, target=None):
        if name == "of_part.part" and threading.current_thread().name == "imports":
            gate.wait()
put_off({"of_part": {}, "of_user": {}})
sys.meta_path.insert(0, Asked)
import of_part, of_user
def imports():
    import of_part.part
    import user
def asks():
    found.append(of_part.thing)
    found.append(of_user.thing)
found = []
threads = [threading.Thread(target=run, name=run.__name__, daemon=True) for run in (imports, asks)]
for each in threads:
    each.start()
for each in threads:
    each.join(60)
print(json.dumps([found, gate.seen, [each.is_alive() for each in threads]]))
"""


def test_a_thread_that_runs_it_and_one_that_imports_what_it_needs_do_not_wait_for_each_other(tmp_path):
    """One has the import system's lock of what the other is about to import, and asks for what that one runs."""
    (tmp_path / "gate.py").write_text(
        "import threading\nbarrier, seen = threading.Barrier(2, timeout=60), []\nwait = barrier.wait\n"
    )
    for name, body in {"of_part": "from of_part.part import own", "of_user": "import user"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"import gate\nearly = 1\ngate.wait()\n{body}\nthing = 2\n")
    part = "import gate\nfrom of_part import early\nown = early\ngate.seen.append('part')\n"
    (tmp_path / "of_part" / "part.py").write_text(part)
    user = "import gate, of_user\ngate.wait()\ngate.seen.append(getattr(of_user, 'thing', 'not yet'))\n"
    (tmp_path / "user.py").write_text(user)
    assert in_a_process(CIRCLES, str(tmp_path)) == [[2, 2], ["part", "not yet"], [False, False]]


def test_a_library_is_linked_before_it_is_imported():
    code = (
        "import json; from chatpager.engine import lean_imports; lean_imports.link_ahead().join(60); "
        "mapped = open('/proc/self/maps').read(); import sys; torch = 'torch' in sys.modules; import torch as there; "
        "print(json.dumps(['libtorch_cpu.so' in mapped, torch, there.ones(2, 2).sum().item()]))"
    )
    assert in_a_process(code) == [True, False, 4.0]


def test_where_there_is_no_such_library_nothing_is_linked(monkeypatch):
    monkeypatch.setattr(lean_imports, "find_spec", lambda name: None)
    assert lean_imports.link_ahead() is None


def test_who_compiles_has_the_compiler():
    code = LEAN + "import torch; print(torch.compile(lambda x: x + 1, backend='eager')(torch.zeros(2)).tolist())"
    assert in_a_process(code) == [1.0, 1.0]


def test_a_folder_of_models_is_read_once():
    code = LEAN + (
        "import json; from transformers.utils import import_utils; from transformers import LlamaConfig; "
        "known = import_utils.create_import_structure_from_path.cache_info(); "
        "print(json.dumps([known.maxsize, known.hits > known.misses // 2, known.misses]))"
    )
    limit, mostly_known, folders = in_a_process(code)
    assert limit is None and mostly_known and folders > 128


def in_a_process(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def greedy(folder):
    """Eight tokens of the model in ``folder``, after a prompt of two blocks."""
    from chatpager.config import EngineConfig
    from chatpager.engine.engine import Engine
    from chatpager.engine.messages import AddRequest
    from chatpager.engine.model_runner import ModelRunner
    from chatpager.engine.sampling_params import SamplingParams

    config = EngineConfig(model=str(folder), num_kv_blocks=32, dtype="float32", swap_space=0)
    engine = Engine(config, ModelRunner(config))
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    engine.add(AddRequest(request_id="r", prompt_token_ids=list(range(5, 37)), params=params), 0.0)
    found = []
    while engine.has_work:
        found += [token for output in engine.step(lambda: 0.0) for token in output.token_ids]
    engine.close()
    return found


def test_every_architecture_computes_what_it_does_otherwise(tiny_model):
    folders = [str(tiny_model(architecture)) for architecture in sorted(SERVED)]
    code = LEAN + "import json, sys; from tests.engine.test_lean_imports import greedy; "
    lean = in_a_process(code + "print(json.dumps([greedy(folder) for folder in sys.argv[1:]]))", *folders)
    assert lean == [greedy(folder) for folder in folders]


def test_a_start_imports_nothing_that_it_never_runs():
    """All of a start in one process: the command line, the server's rooms, the built-in model and its first tokens."""
    code = LEAN + (
        "import json, sys, chatpager.cli.app, chatpager.cli.serving; from chatpager.demo import model_path; "
        "from chatpager.engine.tokenizer import Tokenizer; from tests.engine.test_lean_imports import greedy; "
        "Tokenizer(model_path()); assert len(greedy(model_path())) == 8; print(json.dumps(sorted(sys.modules)))"
    )
    modules = set(in_a_process(code))
    never = {
        "numba", "torch._dynamo.convert_frame", "torch._inductor", "torch.distributed.tensor",
        "torch.export.exported_program", "torch.ao.quantization", "scipy", "sklearn", "pandas", "PIL", "torchvision",
    }  # fmt: skip
    assert not modules & never
    parts = [name for name in modules - lean_imports.PUT_OFF.keys() if name.startswith(tuple(lean_imports.PUT_OFF))]
    assert not [name for name in parts if any(name.startswith(f"{of}.") for of in lean_imports.PUT_OFF)]
