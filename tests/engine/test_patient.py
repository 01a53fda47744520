"""What is asked of a thread that may hang: each asker has the answer to its own question, or Hangs."""

import threading
from concurrent.futures import Future

import pytest

from chatpager.engine import patient
from chatpager.engine.patient import Hangs, Patient


class JustThen(Future):
    """Its answer comes when the time to wait for it is over."""

    def result(self, timeout=None):
        answer = super().result()
        if timeout is not None:
            raise TimeoutError
        return answer


def refused():
    raise TimeoutError("of its own")


def test_an_answer_that_comes_as_the_time_ends_is_the_answer(monkeypatch):
    monkeypatch.setattr(patient, "Future", JustThen)
    asked = Patient("test", seconds=60.0)
    assert asked.ask(lambda: 1) == 1
    with pytest.raises(TimeoutError, match="of its own"):
        asked.ask(refused)
    asked.close()


def test_no_question_is_answered_with_what_came_too_late_to_another():
    asked, gate = Patient("test", seconds=0.0), threading.Event()
    with pytest.raises(Hangs):
        asked.ask(lambda: gate.wait() and 1)
    asked.seconds = 60.0
    with pytest.raises(Hangs):
        asked.ask(lambda: 2)
    gate.set()
    assert asked._stuck.result(60.0) == 1
    assert asked.ask(lambda: 3) == 3
    asked.close()
