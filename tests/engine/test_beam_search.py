"""Beam search against transformers' own, and by hand."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from chatpager import LLM, BeamSearchParams
from chatpager.engine.beam_search import beam_search
from chatpager.errors import InvalidRequest

PROMPT = [5, 9, 2, 7, 7, 3, 11, 4, 8]


@pytest.fixture(scope="module")
def folder(tiny_model):
    return tiny_model("llama")


@pytest.fixture(scope="module")
def llm(folder):
    return LLM(folder, dtype="float32", num_kv_blocks=200, block_size=8)


@pytest.fixture(scope="module")
def reference(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def searched(reference, width, length, penalty, ends):
    """transformers' answers, cut after their first end token, and their scores."""
    found = reference.generate(
        torch.tensor([PROMPT]), num_beams=width, num_return_sequences=width, max_new_tokens=length, do_sample=False,
        length_penalty=penalty, early_stopping=False, return_dict_in_generate=True, output_scores=True,
        temperature=None, top_p=None, top_k=None, eos_token_id=sorted(ends),
    )  # fmt: skip
    answers = [ids[len(PROMPT) :].tolist() for ids in found.sequences]
    cut = [ids[: next((i + 1 for i, t in enumerate(ids) if t in ends), len(ids))] for ids in answers]
    return list(zip(cut, found.sequences_scores.tolist(), strict=True))


@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize(("penalty", "length"), [(1.0, 12), (0.0, 6), (2.0, 9)])
@pytest.mark.parametrize("likely_ends", [False, True])
def test_it_finds_what_transformers_finds(llm, reference, monkeypatch, width, penalty, length, likely_ends):
    ends = set(llm.runner.eos_token_ids)
    if likely_ends:  # tokens of which the best answers would consist
        ends = {searched(reference, 5, 8, 1.0, ends)[i][0][i + 1] for i in (0, 3)}
        monkeypatch.setattr(type(llm.runner), "eos_token_ids", frozenset(ends))
    params = BeamSearchParams(beam_width=width, max_tokens=length, length_penalty=penalty)
    (out,) = llm.beam_search([PROMPT], params, use_tqdm=False)
    wanted = searched(reference, width, length, penalty, ends)
    for answer, (token_ids, score) in zip(out.outputs, wanted, strict=True):
        assert answer.token_ids == token_ids
        assert answer.score == pytest.approx(score, abs=1e-4)
        assert answer.finish_reason == ("stop" if answer.token_ids[-1] in ends else "length")
    if likely_ends and penalty <= 1:  # above 1 the longest answers win
        assert any(answer.finish_reason == "stop" for answer in out.outputs)


TREE = {
    (): [(1, -0.5), (2, -1.0), (9, -3.0)],
    (1,): [(3, -2.0), (4, -2.5), (9, -2.6)],
    (2,): [(9, -0.1), (3, -0.4), (4, -3.0)],
}


def expand(sequences, count):
    rest = [(5, -1.0), (6, -1.1), (7, -1.2), (9, -5.0)]
    return [TREE.get(tuple(s[1:]), rest)[:count] for s in sequences]


def test_the_best_whole_wins_over_the_best_first_token():
    best, second = beam_search([0], BeamSearchParams(beam_width=2, max_tokens=2, length_penalty=0.0), {9}, expand)
    assert (best.token_ids, best.ended, best.score) == ([2, 9], True, pytest.approx(-1.1))
    assert (second.token_ids, second.ended) == ([2, 3], False)


def test_an_end_that_is_ignored_is_a_token_like_others():
    params = BeamSearchParams(beam_width=2, max_tokens=3, length_penalty=0.0, ignore_eos=True)
    best = beam_search([0], params, {9}, expand)[0]
    assert (best.token_ids[:2], len(best.token_ids), best.ended) == ([2, 9], 3, False)


def test_beams_share_what_they_have_in_common(llm):
    llm.engine.cache.reset()
    before = llm.engine.stats()
    llm.beam_search(PROMPT * 4, BeamSearchParams(beam_width=4, max_tokens=6, ignore_eos=True), use_tqdm=False)
    after = llm.engine.stats()
    asked, hit = (getattr(after, name) - getattr(before, name) for name in ("queried_tokens", "hit_tokens"))
    assert asked - hit < len(PROMPT) * 4 + 4 * 6 * 8, "a beam computes less than a block a round"
    assert after.memory.active == 0


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"beam_width": 0}, "beam_width"),
        ({"beam_width": 11}, "beam_width"),
        ({"beam_width": 2, "max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_is_no_search(wrong, param):
    with pytest.raises(InvalidRequest) as caught:
        BeamSearchParams(**wrong)
    assert caught.value.param == param


def test_more_ends_than_candidates_allow_are_refused():
    with pytest.raises(InvalidRequest, match="at most 5 where 3 tokens"):
        beam_search([0], BeamSearchParams(beam_width=6), {1, 2, 3}, expand)
