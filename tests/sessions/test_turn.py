import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatpager.engine.call_forms import TagParser
from chatpager.engine.detokenizer import TextStream
from chatpager.engine.messages import FinishReason, SamplingParams, StepOutput, Usage
from chatpager.engine.reasoning import THINK, ThinkParser
from chatpager.sessions.answers import Reasoning, answer_of
from chatpager.sessions.turn import LiveTurn
from chatpager.sessions.turn_request import TurnRequest
from chatpager.sessions.turn_states import TRANSITIONS, Happening, TurnState
from tests.sessions.conftest import user

USAGE = Usage(
    admitted=True,
    prompt_tokens=3,
    cached_tokens=0,
    committed_tokens=3,
    output_tokens=2,
    preemptions=0,
    queue_seconds=0.5,
    prefill_seconds=0.25,
)


def make(tokenizer, parser=None, **params):
    params = SamplingParams(max_tokens=50, **params)
    request = TurnRequest(id="resp_1", tenant="t", kind="response", model="m", messages=[user("x")], params=params)
    return LiveTurn(
        request,
        [5, 6, 7],
        tokenizer.text_stream(params),
        parser=parser,
        template="exact",
        eos=frozenset({2}),
        created_at=1000,
        submitted=10.0,
    )


def text_of(said):
    return "".join(event.text for event in said)


def output(*ids, finish=None, **more):
    return StepOutput(
        request_id="resp_1", token_ids=list(ids), finish_reason=finish, usage=USAGE if finish else None, **more
    )


def test_every_arrow_that_is_not_in_the_table_is_a_bug(tokenizer):
    for state, what in itertools.product(TurnState, Happening):
        turn = make(tokenizer)
        turn.state = state
        if (state, what) in TRANSITIONS:
            turn.happen(what)
            assert turn.state is TRANSITIONS[state, what]
        else:
            with pytest.raises(AssertionError, match="resp_1"):
                turn.happen(what)


def test_text_and_journal_say_the_same(tokenizer):
    turn = make(tokenizer)
    ids = tokenizer.encode_plain("héllo 你好 😀!")
    texts, entries = [], []
    for i, token in enumerate(ids):
        said, entry = turn.take(output(token), 11.0 + i)
        texts.append(text_of(said))
        entries.append(entry)
    said, entry = turn.take(output(2, finish=FinishReason.STOP), 50.0)
    texts.append(text_of(said))
    assert "".join(texts) == turn.text == "héllo 你好 😀!"
    assert entry is None, "an answer that a crash cuts off here is as it would have been stored"
    assert [e.first_index for e in entries] == list(range(len(ids)))
    assert [t for e in entries for t in e.token_ids] == ids
    assert "".join(e.text for e in entries) == turn.text
    assert turn.status == "completed"
    assert turn.answer_ids() == ids, "the template writes the closing token itself"
    assert list(turn.computed_ids()) == [5, 6, 7, *ids], "the last sampled token has no keys and values"


def test_a_closing_token_that_closes_nothing_is_journalled_with_the_next(tokenizer):
    turn = make(tokenizer, ignore_eos=True)
    a, b = tokenizer.encode_plain("ab")
    entries = [turn.take(output(id), 11.0)[1] for id in (a, 2, 2, b, 2)]
    _, last = turn.take(output(b, 2, finish=FinishReason.LENGTH), 12.0)
    assert [e and (e.first_index, e.token_ids) for e in [*entries, last]] == [
        (0, [a]), None, (1, [2]), (2, [2, b]), None, (4, [2, b])
    ]  # fmt: skip


def test_text_never_waits_for_tokens(tokenizer, monkeypatch):
    """A vocabulary may give its closing token a text: what is shown is journalled, so that token is, too."""
    turn = make(tokenizer, ignore_eos=True)
    monkeypatch.setattr(TextStream, "push", lambda self, id: "<end>")
    assert turn.take(output(2), 11.0)[1].token_ids == [2]
    assert turn.take(output(2), 11.0)[1].first_index == 1


@given(st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=2), max_size=12))
def test_plain_text_is_taken_as_any_other(tokenizer, steps):
    """Some of these bytes are no whole character, and one token is the closing one."""
    quick, slow = make(tokenizer), make(tokenizer)
    slow._is_plain = False
    for ids in steps:
        assert quick.take(output(*ids), 11.0) == slow.take(output(*ids), 11.0)
    assert quick.take(output(finish=FinishReason.LENGTH), 12.0) == slow.take(output(finish=FinishReason.LENGTH), 12.0)
    assert quick.answer() == slow.answer()
    assert (quick.token_ids, quick.text, quick.timings(13.0)) == (slow.token_ids, slow.text, slow.timings(13.0))


def test_several_tokens_in_one_output_are_one_entry(tokenizer):
    turn = make(tokenizer)
    ids = tokenizer.encode_plain("abc")
    _, entry = turn.take(output(*ids), 11.0)
    assert (entry.first_index, list(entry.token_ids), entry.text) == (0, ids, "abc")


def test_a_prompts_progress_is_no_journal_entry(tokenizer):
    turn = make(tokenizer)
    assert turn.take(output(prefilled=(1, 3, 0)), 11.0) == ([], None)
    assert turn.state is TurnState.PREFILL


def test_a_stop_string_ends_the_text_and_what_follows_is_not_the_answers(tokenizer):
    turn = make(tokenizer, stop="STOP")
    ids = tokenizer.encode_plain("so far STOP and more")
    text = "".join(text_of(turn.take(output(i), 11.0)[0]) for i in ids)
    assert text == turn.text == "so far "
    assert turn.stopped_by_string
    assert tokenizer.decode(turn.token_ids).startswith("so far STOP")
    assert "and" not in tokenizer.decode(turn.token_ids)
    turn.take(output(finish=FinishReason.CANCELLED), 12.0)
    assert turn.status == "completed"
    assert turn.take(output(9), 13.0) == ([], None)


def test_the_journal_has_what_was_generated_and_of_its_text_what_is_said(tokenizer):
    turn = make(tokenizer, ThinkParser(THINK, TagParser()))
    generated = '<think>Hm.</think>\nSo: <tool_call>{"name": "f", "arguments": {}}</tool_call>'
    ids = tokenizer.encode_plain(generated)
    said, entries = [], []
    for token in [*ids, 2]:
        told, entry = turn.take(output(token, finish=FinishReason.STOP if token == 2 else None), 11.0)
        said += told
        entries += [entry] if entry else []
    assert [t for e in entries for t in e.token_ids] == turn.answer_ids() == ids
    assert "".join(e.text for e in entries) == turn.answer().text == "So:"
    assert turn.answer() == answer_of(said) == turn.answer()
    assert (turn.answer().reasoning, len(turn.answer().calls)) == ((Reasoning(0, "Hm."),), 1)
    thought = tokenizer.encode_plain("<think>Hm.</think>")
    assert turn.ended(12.0, 5).reasoning_tokens == len(thought) - len(tokenizer.encode_plain("<think>")) + 1


def test_a_turn_that_fails_halfway_keeps_what_was_held_back(tokenizer):
    turn = make(tokenizer, ThinkParser(THINK))
    for token in tokenizer.encode_plain("<think>Hm.</think>"[:-3]):
        turn.take(output(token), 11.0)
    turn.fail("engine_x", "no")
    assert turn.ended(12.0, 5).reasoning == turn.ended(12.0, 5).reasoning == (Reasoning(0, "Hm.</thi"),)


def test_text_held_back_for_a_stop_string_comes_at_the_end(tokenizer):
    turn = make(tokenizer, stop="STOP")
    for i in tokenizer.encode_plain("so far ST"):
        turn.take(output(i), 11.0)
    assert turn.text == "so far "
    said, entry = turn.take(output(finish=FinishReason.LENGTH), 12.0)
    assert text_of(said) == entry.text == "ST"
    assert turn.status == "incomplete"


@pytest.mark.parametrize(
    ("reason", "status"),
    [("stop", "completed"), ("length", "incomplete"), ("cancelled", "cancelled"), ("error", "failed")],
)
def test_every_finish_has_a_status(tokenizer, reason, status):
    turn = make(tokenizer)
    turn.take(output(finish=FinishReason(reason), error_code="engine_x" if status == "failed" else None), 11.0)
    assert turn.status == turn.ended(12.0, 5).status == status
    assert (turn.error is not None) == (status == "failed")


def test_failing_from_outside_wins_over_an_end_that_is_not_stored(tokenizer):
    turn = make(tokenizer)
    turn.take(output(5, finish=FinishReason.STOP), 11.0)
    turn.fail("storage_unavailable", "no")
    assert turn.status == "failed"
    assert turn.ended(12.0, 5).error_code == "storage_unavailable"


def test_timings_are_of_the_hubs_clock(tokenizer):
    turn = make(tokenizer)
    for i, token in enumerate(tokenizer.encode_plain("abcde")):
        turn.take(output(token), 11.0 + i / 2)
    turn.take(output(finish=FinishReason.LENGTH), 14.0)
    timings = turn.timings(15.0)
    assert (timings.queue_ms, timings.prefill_ms, timings.ttft_ms) == (500.0, 250.0, 1000.0)
    assert (timings.decode_tok_s, timings.total_ms) == (2.0, 5000.0)


def test_an_answer_without_a_token_has_no_first_one(tokenizer):
    timings = make(tokenizer).timings(12.0)
    assert (timings.ttft_ms, timings.decode_tok_s, timings.queue_ms) == (None, None, 0.0)
