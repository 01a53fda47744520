"""Playing the cases and counting what was right."""

import json
from io import StringIO

import pytest
from rich.console import Console

from chatpager.demo import model_path
from chatpager.demo.cases import Case, make_cases
from chatpager.demo.evaluate import BATCH, WAYS, Outcome, Player, main, show, show_wrong, tally


class Scripted(Player):
    """Plays from a function instead of a model, and remembers what it was shown."""

    def __init__(self, answer):
        self.answer, self.shown = answer, []

    def answers(self, conversations):
        self.shown += conversations
        return [self.answer(c) for c in conversations]


def talk(*contents, system=False):
    roles = (["system"] if system else []) + ["user", "assistant"] * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


LIVE = Case(
    "recall", "2", "en", talk("I am Ada.", "Hi Ada.", "Nice.", "Yes.", "Who am I?", "Ada."), ("Ada",), live=True
)
TAUGHT = Case("far", "500", "en", LIVE.messages, ("Ada",))


def test_live_the_player_gives_every_answer():
    player = Scripted(lambda c: f"answer {len(c)}")
    (outcome,) = player.play([LIVE])
    assert [len(c) for c in player.shown] == [1, 3, 5]
    assert player.shown[2][1]["content"] == "answer 1"
    assert outcome.answer == "answer 5"
    assert not outcome.right


def test_taught_the_player_gives_the_last_answer_only():
    player = Scripted(lambda c: "You are Ada.")
    (outcome,) = player.play([TAUGHT])
    assert player.shown == [LIVE.messages[:-1]]
    assert outcome.right


def test_system_messages_are_passed_on():
    case = Case(
        "recall", "1", "en", talk("Be brief.", "I am Ada.", "Hi.", "Who?", "Ada.", system=True), ("Ada",), live=True
    )
    player = Scripted(lambda c: "Ada")
    player.play([case])
    assert player.shown[0][0] == {"role": "system", "content": "Be brief."}


def test_every_case_is_played_once_in_batches():
    cases = make_cases(0, 0.1)
    assert len(cases) > BATCH
    outcomes = Scripted(lambda c: "?").play(cases)
    assert sorted(id(o.case) for o in outcomes) == sorted(map(id, cases))


def test_a_player_that_gives_the_taught_answers_is_always_right():
    cases = make_cases(0, 0.1)
    taught = {json.dumps(c.messages[:-1]): c.messages[-1]["content"] for c in cases}
    for case in cases:
        for at, message in enumerate(case.messages):
            if message["role"] == "assistant":
                taught[json.dumps(case.messages[:at])] = message["content"]
    outcomes = Scripted(lambda c: taught[json.dumps(c)]).play(cases)
    assert all(o.right for o in outcomes)


def test_outcomes_are_counted_by_suite_language_and_distance():
    counts = tally([Outcome(LIVE, "Ada."), Outcome(LIVE, "Bo."), Outcome(TAUGHT, "Ada")])
    assert counts == {
        "recall": {"all": [1, 2], "en": [1, 2], "2": [1, 2]},
        "far": {"all": [1, 1], "en": [1, 1], "500": [1, 1]},
    }
    console = Console(file=StringIO(), width=120)
    show(console, counts)
    show_wrong(console, [Outcome(LIVE, "Bo."), Outcome(LIVE, "Ada")])
    printed = console.file.getvalue()
    assert "50.0 %" in printed
    assert printed.count("recall 2: 'Who am I?'") == 1


@pytest.mark.parametrize("way", sorted(WAYS))
def test_the_command_writes_the_figures(tmp_path, capsys, way):
    out = tmp_path / "figures.json"
    main(
        [
            "--way",
            way,
            "--share",
            "0.05",
            "--suite",
            "untold",
            "--json",
            str(out),
            "--wrong",
            "--model",
            str(model_path()),
        ]
    )
    figures = json.loads(out.read_text())
    assert figures[way]["untold"]["all"][1] == 5
    assert "untold" in capsys.readouterr().out
