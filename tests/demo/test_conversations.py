"""Whole conversations."""

from itertools import islice, pairwise
from random import Random

from chatpager.demo.conversations import conversation, handbook, stream
from chatpager.demo.talk import Talk, held_out_wordings, plain
from chatpager.demo.words import Split


def some(n=1500, seed="test", **how):
    return list(islice(stream(seed, **how), n))


def test_the_same_seed_gives_the_same_conversations():
    assert some(50) == some(50)
    assert some(50) != some(50, "another")


def test_they_are_the_same_in_another_process():
    """A golden sum: a change of the data or of its code changes what is trained, and must be meant."""
    import subprocess
    import sys

    program = (
        "from itertools import islice\nfrom chatpager.demo.conversations import stream\n"
        "import hashlib, json\n"
        "print(hashlib.sha256(json.dumps(list(islice(stream('golden'), 200))).encode()).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": str(i)}, capture_output=True, check=True
        ).stdout
        for i in (1, 2)
    }
    assert len(runs) == 1


def test_no_held_out_question_is_ever_trained():
    asked = {plain(m["content"]) for c in some() for m in c if m["role"] == "user"}
    assert not asked & held_out_wordings()


def test_turns_alternate_and_end_with_an_answer():
    for c in some(300):
        roles = [m["role"] for m in c]
        assert roles[-1] == "assistant"
        assert all(b == "assistant" for a, b in pairwise(roles) if a == "user")
        assert all(a == "user" for a, b in pairwise(roles) if b == "assistant")


def test_both_languages_both_scripts_and_late_system_messages_occur():
    found = some(600)
    text = " ".join(m["content"] for c in found for m in c)
    assert "你还没有告诉我" in text
    assert "你還沒有告訴我" in text
    assert "You have not told me" in text
    assert any(m["role"] == "system" for c in found for m in c[1:])
    assert any(c[0]["role"] != "system" for c in found)


def test_the_length_grows_as_asked():
    assert max(len(c) for c in some(200, longest=3)) <= 3 * 2 + 4
    assert max(len(c) for c in some(200, long_share=1.0)) > 60
    assert sum(m["role"] == "user" for m in conversation(Random(1), turns=5)) >= 4


def test_a_handbook_is_long_and_in_the_language():
    for lang, mark in (("en", "."), ("zh", "。")):
        text = handbook(Talk(Random(0), Split.TRAIN, lang), 30)
        assert text.count(mark) >= 25
