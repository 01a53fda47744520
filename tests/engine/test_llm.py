"""The offline face, on the tiny chat model."""

import pytest

from chatpager import LLM, SamplingParams
from chatpager.errors import ConfigError, ContextLengthExceeded, InvalidRequest, ModelLoadError

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(chat_model):
    return LLM(chat_model, dtype="float32", num_kv_blocks=400)


def test_prompts_are_text_ids_or_messages_and_outputs_come_in_order(llm):
    ids = llm.tokenizer.encode("the quick")
    outs = llm.generate(["the quick", ids, [{"role": "user", "content": "hi"}]], GREEDY, use_tqdm=False)
    assert [o.prompt for o in outs] == ["the quick", None, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"]
    assert outs[0].prompt_token_ids == outs[1].prompt_token_ids == ids
    assert outs[0].outputs[0].token_ids == outs[1].outputs[0].token_ids
    for out in outs:
        (answer,) = out.outputs
        assert len(answer.token_ids) == 8
        assert answer.finish_reason == "length"
        assert answer.text == llm.tokenizer.decode(answer.token_ids).rstrip("\ufffd")


def test_one_prompt_needs_no_list(llm):
    for prompt in ("the", [5, 6, 7], [{"role": "user", "content": "hi"}]):
        assert len(llm.generate(prompt, GREEDY, use_tqdm=False)) == 1
    assert llm.generate([], GREEDY) == []


def test_each_prompt_may_have_its_own_parameters(llm):
    params = [SamplingParams(max_tokens=n, ignore_eos=True) for n in (1, 3)]
    outs = llm.generate(["a", "b"], params)
    assert [len(o.outputs[0].token_ids) for o in outs] == [1, 3]
    with pytest.raises(InvalidRequest, match="1 sampling parameters for 2 prompts"):
        llm.generate(["a", "b"], params[:1])


def test_parameters_go_by_the_name_vllms_users_know(llm):
    (out,) = llm.generate(prompts="a", sampling_params=SamplingParams(max_tokens=3, ignore_eos=True))
    assert len(out.outputs[0].token_ids) == 3


def test_the_defaults_are_those_vllms_users_know(llm):
    (out,) = llm.generate("the")
    assert len(out.outputs[0].token_ids) <= 16


def test_several_samples_of_one_prompt(llm):
    params = SamplingParams(n=3, temperature=1.0, seed=4, max_tokens=6, ignore_eos=True)
    (out,) = llm.generate("the quick brown", params)
    assert [a.index for a in out.outputs] == [0, 1, 2]
    assert len({tuple(a.token_ids) for a in out.outputs}) > 1
    (again,) = llm.generate("the quick brown", params)
    assert [a.token_ids for a in again.outputs] == [a.token_ids for a in out.outputs]


def test_a_seed_gives_the_same_text_alone_and_among_others(llm):
    params = SamplingParams(temperature=0.9, top_p=0.9, seed=11, max_tokens=10, ignore_eos=True)
    (alone,) = llm.generate("seeded", params)
    among = llm.generate(["x" * i + " other" for i in range(1, 6)] + ["seeded"], params)
    assert among[-1].outputs[0].text == alone.outputs[0].text


def test_a_stop_string_ends_text_and_generation(llm):
    (free,) = llm.generate("the quick", GREEDY)
    text = free.outputs[0].text
    stop = text[2:4]
    (out,) = llm.generate("the quick", SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, stop=stop))
    (answer,) = out.outputs
    assert answer.text == text[: text.find(stop)]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)
    assert len(answer.token_ids) < 8
    assert not llm.engine.has_work


def test_a_stop_string_in_the_very_last_token(llm):
    (free,) = llm.generate("the quick", GREEDY)
    text = free.outputs[0].text
    stop = text[-2:]
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, stop=stop, include_stop_str_in_output=True)
    (out,) = llm.generate("the quick", params)
    assert out.outputs[0].text == text[: text.find(stop) + len(stop)]
    assert out.outputs[0].finish_reason == "stop"


def test_logprobs_come_with_every_token(llm):
    (out,) = llm.generate("a", SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=2))
    (answer,) = out.outputs
    assert [entry.chosen.token_id for entry in answer.logprobs] == answer.token_ids
    assert all(entry.top[0].token_id == entry.chosen.token_id for entry in answer.logprobs)


def test_the_second_generation_over_a_history_computes_what_is_new(llm):
    llm.engine.cache.reset()
    (first,) = llm.generate("a rather long beginning of a conversation", GREEDY)
    history = [*first.prompt_token_ids, *first.outputs[0].token_ids, 9]
    (second,) = llm.generate([history], GREEDY)
    assert second.usage.cached_tokens == len(history) - 2, "the last token that was sampled was never computed"
    assert second.usage.cached_tokens + second.usage.computed_tokens == len(history)


def test_the_usage_of_several_samples_counts_the_prompt_once_and_every_answer(llm):
    llm.engine.cache.reset()
    (out,) = llm.generate("the quick brown", SamplingParams(n=3, temperature=1.0, seed=4, max_tokens=6))
    lengths = [len(answer.token_ids) for answer in out.outputs]
    usage, prompt = out.usage, len(out.prompt_token_ids)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.computed_tokens) == (prompt, 0, prompt)
    assert (usage.output_tokens, usage.committed_tokens) == (sum(lengths), prompt + max(lengths) - 1)


@pytest.mark.parametrize("n", [1, 2])
def test_an_answer_that_a_stop_string_ended_has_a_usage_too(llm, n):
    (free,) = llm.generate("the quick", GREEDY)
    before, after = (llm.tokenizer.decode(free.outputs[0].token_ids[:count]) for count in (2, 4))
    stop = after[len(before) - 1 :]
    params = SamplingParams(n=n, temperature=0.0, max_tokens=8, ignore_eos=True, stop=stop)
    (out,) = llm.generate("the quick", params)
    lengths = [len(answer.token_ids) for answer in out.outputs]
    assert 1 < lengths[0] < 8
    assert out.usage.output_tokens == sum(lengths)
    assert out.usage.committed_tokens == len(out.prompt_token_ids) + max(lengths) - 1


def test_bad_prompts_start_nothing(llm):
    for prompt, error in [
        ("", InvalidRequest),
        ([[5, "x"]], InvalidRequest),
        ([[5, True]], InvalidRequest),
        ([[400]], InvalidRequest),
        ([[{"role": "user"}]], InvalidRequest),
        ([[{"content": "x"}]], InvalidRequest),
        ([[5] * 2000], ContextLengthExceeded),
    ]:
        with pytest.raises(error):
            llm.generate(["good", *([prompt] if isinstance(prompt, str) else prompt)], GREEDY)
        assert not llm.engine.has_work
        assert llm.engine.pool.counts()["active"] == 0


def test_a_step_that_fails_is_told_in_the_output(llm, monkeypatch):
    def broken(plan):
        raise RuntimeError("cosmic ray")

    with monkeypatch.context() as patch:
        patch.setattr(llm.runner, "run", broken)
        (out,) = llm.generate("a", GREEDY)
    assert out.outputs[0].finish_reason == "error"
    assert out.outputs[0].error == f"a step of request offline-{llm._requests} raised RuntimeError"
    (whole,) = llm.generate("a", GREEDY)
    assert (whole.outputs[0].finish_reason, whole.outputs[0].error) == ("length", None)


def test_interrupting_leaves_the_engine_clean(llm, monkeypatch):
    def interrupted(clock):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate("a", GREEDY)
    llm.generate("b", GREEDY)
    assert llm.engine.pool.counts()["active"] == 0


def test_stop_strings_need_a_tokenizer(tiny_model):
    llm = LLM(model=tiny_model("llama"), dtype="float32", max_model_len=32, num_kv_blocks=16)
    with pytest.raises(InvalidRequest, match="stop strings need"):
        llm.generate([[1, 2, 3]], SamplingParams(stop=["x"]), use_tqdm=False)


def test_ids_need_no_tokenizer(tiny_model):
    llm = LLM(tiny_model("llama"), dtype="float32", num_kv_blocks=60, block_size=8)
    (out,) = llm.generate([[5, 6, 7]], GREEDY)
    assert len(out.outputs[0].token_ids) == 8
    assert out.outputs[0].text == ""
    with pytest.raises(ModelLoadError, match="tokenizer"):
        llm.generate("text")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tensor_parallel_size": 3}, "tensor_parallel_size = 3: .* attention heads; use 1, 2"),
        ({"block_size": 12}, "multiple of 8"),
        ({"block_sise": 16}, "did you mean 'block_size'"),
        ({"gpu_memory_utilization": 1.5}, "above 0 and at most 1"),
        ({"dtype": "int3"}, "must be one of"),
        ({"max_num_seqs": "many"}, "a whole number"),
    ],
)
def test_an_option_that_does_not_work_is_refused_never_ignored(chat_model, settings, words):
    with pytest.raises(ConfigError, match=words):
        LLM(chat_model, **settings)


def test_the_founding_texts_call_works(chat_model):
    llm = LLM(
        model=str(chat_model),
        block_size=16,
        gpu_memory_utilization=0.9,
        swap_space=4,
        max_num_batched_tokens=8192,
        max_num_seqs=256,
        tensor_parallel_size=1,
    )
    outputs = llm.generate(["Hello, my name is"], SamplingParams(temperature=0.8, top_p=0.95, max_tokens=5))
    assert outputs[0].prompt == "Hello, my name is"
    assert isinstance(outputs[0].outputs[0].text, str)
