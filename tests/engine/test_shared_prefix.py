"""Which rows of a step begin with the same pages, and that they say the same where they attend to them together."""

import numpy as np
import pytest
import torch

from chatpager.config import EngineConfig
from chatpager.engine.batch import BatchBuilder
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Plan, Row
from chatpager.engine.shared_prefix import Sharing
from chatpager.kernels import cpu, paged_attention
from tests.engine.test_sampler import seq

SIZE = 4


def sharing(members=2, tokens=8, pays=lambda members, tokens: True):
    return Sharing(members, tokens, pays)


def found(tables, contexts, wanted=None):
    groups = (wanted or sharing()).groups(np.array(tables, np.int32), np.array(contexts, np.int32), SIZE)
    return [(group.rows.tolist(), group.tokens) for group in groups]


class TestFinding:
    def test_rows_are_grouped_by_the_pages_they_begin_with_up_to_where_they_part(self):
        tables = [[1, 2, 3, 4, 5], [7, 8, 9, 0, 0], [1, 2, 3, 4, 6], [7, 8, 5, 0, 0], [1, 2, 3, 9, 0]]
        assert found(tables, [18, 11, 19, 12, 13]) == [([0, 2, 4], 12), ([1, 3], 8)]

    def test_the_token_that_asks_is_never_shared(self):
        same = [[1, 2, 3]] * 2
        assert found(same, [12, 12]) == [([0, 1], 8)]
        assert found(same, [9, 12]) == [([0, 1], 8)]
        assert found(same, [8, 12]) == []

    def test_a_block_of_other_number_with_the_same_content_before_it_does_not_matter(self):
        assert found([[1, 2, 3, 8], [9, 2, 3, 7]], [14, 14]) == [([0, 1], 12)]

    def test_few_rows_short_prefixes_and_what_does_not_pay_are_none(self):
        tables, contexts = [[1, 2, 3]] * 3, [12] * 3
        assert found(tables, contexts, sharing(members=4)) == []
        assert found(tables, contexts, sharing(tokens=12)) == []
        assert found(tables, contexts, sharing(pays=lambda members, tokens: members > 3)) == []
        assert found([[1, 2, 3], [4, 5, 6], [7, 8, 9]], contexts) == []
        assert found(np.zeros((0, 0)), []) == []


def row(tokens, table, count=1):
    of = seq(prompt=tokens)
    of.block_table, of.committed = list(table), len(tokens) - count
    return Row(of, count, [of])


def test_a_batch_names_its_groups_beside_a_prompt():
    plan = Plan([row(range(9), [1, 2, 5]), row(range(20), [3, 4, 6, 7, 8], 20), row(range(11), [1, 2, 9])])
    shared = BatchBuilder(64, 8, 16, SIZE, torch.device("cpu"), sharing=sharing()).build(plan).shared
    assert [tensor.tolist() for tensor in shared[:4]] == [[0, 2], [0, 1], [8], [8, 8]]
    assert shared.longest == 8
    assert BatchBuilder(64, 8, 16, SIZE, torch.device("cpu")).build(plan).shared is None


@pytest.mark.no_cover
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_model_computes_the_same_with_and_without(tiny_model, architecture, monkeypatch):
    """In the interpreter; gemma2 has layers with a window, which share nothing."""
    from chatpager.kernels import cuda

    settings = {"model": str(tiny_model(architecture)), "dtype": "float32", "device": "cpu", "block_size": 8}
    run = ModelRunner(EngineConfig(**settings, num_kv_blocks=16))
    sharing_builder = BatchBuilder(64, 8, 40, 8, torch.device("cpu"), sharing=sharing())
    with torch.inference_mode():
        first = Plan([row(range(2, 28), [1, 2, 3, 4], 26)])
        run.forward(run._builder.build(first))
        plan = Plan([row([*range(2, 26), 90 + i], [1, 2, 3, 5 + i]) for i in range(3)])
        alone = run.forward(run._builder.build(plan)).clone()
        batch = sharing_builder.build(plan)
        assert batch.shared.lengths.tolist() == [24]
        seen = []

        def attend(call):
            seen.append(call.shared is not None)
            (cuda.attend if call.query_start is None else cpu.attend)(call)

        if cuda.INTERPRETED:
            monkeypatch.setattr(paged_attention.cpu, "attend", attend)
            monkeypatch.setattr("chatpager.engine.cpu_stack.Stack.is_program", lambda *_: False)
        together = run.forward(batch)
    assert seen == ([True, True] if architecture == "llama" else [False, True]) or not cuda.INTERPRETED
    torch.testing.assert_close(together, alone, rtol=2e-4, atol=2e-4)
