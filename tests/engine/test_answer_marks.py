"""Tokens that give an answer its parts: seen by the parser, spelled by nobody, told to nobody."""

import pytest

from chatpager.engine.answer_marks import STRUCTURE, TAGS, mark, marks_of, unmarked, with_tags_spelled
from chatpager.engine.detokenizer import TextStream
from chatpager.engine.sampling_params import SamplingParams
from chatpager.engine.tokenizer import Tokenizer
from chatpager.sessions.answers import AnswerReader, Delta, answer_of
from tests.chat_models import CHATML, HARMONY_TOKENS, MISTRAL, MISTRAL_TOKENS, save_tokenizer, thinking


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    special = (*HARMONY_TOKENS, *MISTRAL_TOKENS, "<think>", "</think>")
    return Tokenizer(save_tokenizer(tmp_path_factory.mktemp("marks"), thinking(CHATML), special=special))


def test_every_token_has_a_mark_of_its_own():
    marks = [mark(token) for token in (*STRUCTURE, *TAGS)]
    assert len(set(marks)) == len(marks) and all(len(m) == 1 and "\ufdd4" <= m <= "\ufdef" for m in marks)
    assert unmarked("a" + "".join(marks) + "b") == "ab"
    assert with_tags_spelled(mark("<think>") + mark("[ARGS]")) == "<think>" + mark("[ARGS]")


def test_a_vocabularys_tokens_have_marks_where_they_are_not_shown(tokenizer, tmp_path):
    found = marks_of(tokenizer.backend, ("[ARGS]", "<think>", "[CALL_ID]"))
    assert found == {tokenizer.encode(token)[0]: mark(token) for token in ("[ARGS]", "<think>")}
    assert marks_of(Tokenizer(save_tokenizer(tmp_path)).backend, (*STRUCTURE, *TAGS)) == {}


def stream(tokenizer, ids, stops=(), **more):
    marks = marks_of(tokenizer.backend, (*STRUCTURE, *TAGS))
    text = TextStream(tokenizer.backend, stops, marks=marks, **more)
    pieces = [text.push(i) for i in ids]
    assert "".join(pieces) + text.finish() == text.text
    return text


def test_a_token_is_its_mark_and_what_spells_one_is_text(tokenizer):
    ids = [*tokenizer.encode("a[ARGS]<think>"), *tokenizer.encode_plain("[ARGS]é😀"), tokenizer.encode("<|end|>")[0]]
    said = stream(tokenizer, ids).text
    assert said == f"a{mark('[ARGS]')}{mark('<think>')}[ARGS]é😀{mark('<|end|>')}"
    assert unmarked(said) == tokenizer.decode(ids)


def test_no_text_of_a_models_is_a_mark(tokenizer):
    said = stream(tokenizer, tokenizer.encode_plain(f"a{mark('[ARGS]')}b")).text
    assert said == "a\N{REPLACEMENT CHARACTER}b"


def test_a_stop_string_is_no_further_than_a_mark(tokenizer):
    ids = [*tokenizer.encode_plain("aST"), tokenizer.encode("[ARGS]")[0], *tokenizer.encode_plain("OP STOP b")]
    text = stream(tokenizer, ids, ["STOP"])
    assert (text.text, text.stopped) == (f"aST{mark('[ARGS]')}OP ", "STOP")
    assert stream(tokenizer, ids, min_tokens=99).text == f"aST{mark('[ARGS]')}OP STOP b"


def test_tags_that_are_special_tokens_are_read_and_not_shown(tokenizer):
    ids = tokenizer.encode("<think>Hm.</think>Yes.")
    text = tokenizer.text_stream(SamplingParams(), marked=True)
    reader = AnswerReader("resp_1", tokenizer.answer_parser(None))
    answer = answer_of([said for i in ids for said in reader.read(text.push(i))] + reader.finish())
    assert (answer.text, [thought.text for thought in answer.reasoning]) == ("Yes.", ["Hm."])
    unread = tokenizer.text_stream(SamplingParams())
    assert "".join(map(unread.push, ids)) == "Hm.Yes."


def test_marks_are_told_to_nobody():
    reader = AnswerReader("resp_1", None)
    assert reader.read(mark("[ARGS]")) == [] and reader.read(f"a{mark('[ARGS]')}b") == [Delta("ab")]


def test_a_vocabulary_without_the_tokens_writes_no_such_calls(tmp_path):
    assert not Tokenizer(save_tokenizer(tmp_path / "a", MISTRAL)).writes_calls
    assert Tokenizer(save_tokenizer(tmp_path / "b", MISTRAL, special=MISTRAL_TOKENS)).writes_calls
