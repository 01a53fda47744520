"""The model card says what the committed figures say, and nothing else."""

import json
import re

from chatpager.demo import model_path
from chatpager.demo.card import GOALS, SUITES, card, main, missed, percent, render


def figures():
    return json.loads((model_path() / "evaluation.json").read_text())


def test_the_card_is_written_from_the_committed_figures():
    assert (model_path() / "README.md").read_text() == card(model_path())


def test_every_suite_and_way_is_on_the_card():
    text = (model_path() / "README.md").read_text()
    for counts in figures().values():
        assert set(counts) == set(SUITES)
        for groups in counts.values():
            assert percent(*groups["all"]) in text


def test_another_figure_would_be_another_card(tmp_path):
    for name in ("training.json", "evaluation.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model_path() / name).read_bytes())
    changed = figures()
    changed["float32"]["recall"]["all"][0] -= 1
    (tmp_path / "evaluation.json").write_text(json.dumps(changed))
    main(["--model", str(tmp_path)])
    assert (tmp_path / "README.md").read_text() != (model_path() / "README.md").read_text()


def test_a_missed_goal_is_named_on_the_card():
    counts = {"float32": figures()["float32"]}
    right, total = round(GOALS["unknown"] * 200) - 1, 200
    counts["float32"]["unknown"]["all"] = [right, total]
    assert f"unknown {percent(right, total)} of the 80% wanted" in missed(counts)
    training = json.loads((model_path() / "training.json").read_text())
    assert f"unknown {percent(right, total)} of the 80% wanted" in render(training, counts, 1)
    counts["float32"]["unknown"]["all"] = [right + 1, total]
    assert not any(m.startswith("unknown") for m in missed(counts))


def test_the_card_states_seed_command_tokens_and_time():
    training = json.loads((model_path() / "training.json").read_text())
    text = card(model_path())
    assert f"--seed {training['recipe']['seed']} --steps {training['steps']}" in text
    assert f"{training['tokens'] / 1e6:.1f} million" in text
    assert re.search(r"\d\.\d hours", text)
