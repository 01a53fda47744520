"""What ``bench agents`` refuses; tests/e2e/test_frameworks.py runs it with a real framework."""

import pytest

from chatpager.bench import agents
from chatpager.errors import ConfigError


@pytest.mark.parametrize("wrong", [{"head": 0}, {"answer": 100_000}, {"rounds": 0}])
def test_what_cannot_be_measured_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        agents.run(**{"only": None, "head": 10, "answer": 1, "rounds": 1, "out": None, **wrong})


def test_what_is_no_framework_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match="only = 'mine': must be some of google-adk, openai-agents, langgraph"):
        agents.run(only=["langgraph", "mine"], head=10, answer=1, rounds=1, out=None)


@pytest.mark.parametrize("only", [None, ["langgraph"]])
def test_frameworks_that_are_not_there_are_named(monkeypatch, only):
    monkeypatch.setattr(agents, "installed", lambda packages: False)
    with pytest.raises(ConfigError, match=only[0] if only else "no framework") as refused:
        agents.run(only=only, head=10, answer=1, rounds=1, out=None)
    assert "google-adk needs" in str(refused.value)


def test_what_a_name_stands_in_may_be_missing_too():
    assert not agents.installed(("no_such_package.inside",))
    assert not agents.installed(("json", "no_such_package"))
    assert agents.installed(("json.decoder",))
