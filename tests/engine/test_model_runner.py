from dataclasses import replace

import pytest
import torch

from chatpager.config import EngineConfig
from chatpager.engine import pool_size
from chatpager.engine.attention import ATTENTION
from chatpager.engine.batch import BatchBuilder, ordered
from chatpager.engine.model_runner import ModelRunner
from chatpager.engine.plan import Plan, Row
from chatpager.errors import ConfigError
from tests.engine.test_sampler import seq


def runner(folder, **settings):
    return ModelRunner(EngineConfig(model=str(folder), dtype="float32", device="cpu", block_size=8, **settings))


class TestSizes:
    def test_the_context_is_the_models_unless_asked_for_less(self, tiny_model):
        assert runner(tiny_model("llama"), num_kv_blocks=64).max_model_len == 256
        assert runner(tiny_model("llama"), num_kv_blocks=64, max_model_len=100).max_model_len == 100

    def test_more_than_the_model_has_is_refused(self, tiny_model):
        with pytest.raises(ConfigError, match="at most 256"):
            runner(tiny_model("llama"), max_model_len=257)

    def test_a_pool_too_small_shortens_the_models_own_context(self, tiny_model):
        assert runner(tiny_model("llama"), num_kv_blocks=10).max_model_len == 64

    def test_a_pool_too_small_for_the_context_asked_for_is_refused_with_the_way_out(self, tiny_model):
        with pytest.raises(ConfigError, match="lower it to 64, raise gpu_memory_utilization or num_kv_blocks"):
            runner(tiny_model("llama"), num_kv_blocks=10, max_model_len=100)

    def test_a_pool_of_nothing_is_refused(self, tiny_model):
        with pytest.raises(ConfigError, match="at least 3 blocks"):
            runner(tiny_model("llama"), num_kv_blocks=2)

    @pytest.mark.parametrize("blocks", [10**11, 10**30])
    def test_a_pool_past_the_memory_is_refused_with_its_bytes(self, tiny_model, blocks):
        needs = f"{blocks * 2 * 2 * 8 * 2 * 16 * 4:,} bytes"
        with pytest.raises(ConfigError, match=f"num_kv_blocks = {blocks}: .* {needs} .* lower it"):
            runner(tiny_model("llama"), num_kv_blocks=blocks)

    def test_memory_decides_when_nothing_is_given(self, tiny_model, monkeypatch):
        monkeypatch.setattr(pool_size, "available_memory", lambda: 1 << 20)
        r = runner(tiny_model("llama"), gpu_memory_utilization=0.5)
        assert r.num_blocks == (1 << 19) // r.block_bytes
        assert r.block_bytes == 2 * 2 * 8 * 2 * 16 * 4

    def test_a_cpu_takes_no_more_than_its_cap(self, tiny_model, monkeypatch):
        monkeypatch.setattr(pool_size, "available_memory", lambda: 1 << 45)
        monkeypatch.setattr(pool_size, "CPU_KV_BYTES", 1 << 21)
        assert runner(tiny_model("llama")).num_blocks == (1 << 21) // (2 * 2 * 8 * 2 * 16 * 4)

    def test_too_little_memory_for_a_block_is_refused(self, tiny_model, monkeypatch):
        monkeypatch.setattr(pool_size, "available_memory", lambda: 1000)
        with pytest.raises(ConfigError, match="max_model_len"):
            runner(tiny_model("llama"))

    def test_available_memory_is_a_number_of_bytes(self, monkeypatch, tmp_path):
        assert pool_size.available_memory() > 1 << 20
        monkeypatch.setattr(pool_size, "MEMINFO", tmp_path / "none")
        assert pool_size.available_memory() > 1 << 20

    def test_steps_are_computed_with_the_threads_asked_for_and_nothing_else_is(self, tiny_model, monkeypatch):
        before = torch.get_num_threads()
        asked = runner(tiny_model("llama"), num_kv_blocks=64, num_threads=before + 1, max_num_batched_tokens=16)
        plan, forward, seen = asked._largest_plan(), asked.forward, []
        monkeypatch.setattr(asked, "forward", lambda batch: seen.append(torch.get_num_threads()) or forward(batch))
        asked.run(plan)
        assert seen == [before + 1]
        assert torch.get_num_threads() == before

    def test_a_step_that_raises_leaves_the_threads_as_they_were(self, tiny_model, monkeypatch):
        before = torch.get_num_threads()
        asked = runner(tiny_model("llama"), num_kv_blocks=64, num_threads=before + 1, max_num_batched_tokens=16)
        monkeypatch.setattr(asked, "forward", None)
        with pytest.raises(TypeError):
            asked.run(asked._largest_plan())
        assert torch.get_num_threads() == before


class TestLargestStep:
    """Before a GPU's KV cache is sized, the largest step is tried; the step itself runs on any device."""

    @pytest.mark.parametrize(
        ("seqs", "budget", "counts"),
        [
            (4, 100, [25, 25, 25, 25]),
            (8, 30, [4, 4, 4, 4, 4, 4, 3, 3]),
            (300, 6, [1, 1, 1, 1, 1, 1]),
            (2, 9000, [256, 256]),
        ],
    )
    def test_it_has_every_sequence_and_every_token_a_step_may_have(self, tiny_model, monkeypatch, seqs, budget, counts):
        r = runner(tiny_model("llama"), num_kv_blocks=64, max_num_seqs=seqs, max_num_batched_tokens=budget)
        batches, forward = [], r.forward
        monkeypatch.setattr(r, "forward", lambda batch: (batches.append(batch), forward(batch))[1])
        r._try_largest_step()
        (batch,) = batches
        assert sorted((row.count for row in batch.rows), reverse=True) == counts
        assert len(batch.samples) == len(counts)

    def test_what_it_takes_is_not_given_to_the_cache(self, tiny_model, monkeypatch):
        r = runner(tiny_model("llama"), num_kv_blocks=64, gpu_memory_utilization=0.5)
        r.model = replace(r.model, device=torch.device("cuda"))
        did = []
        monkeypatch.setattr(r, "_try_largest_step", lambda: did.append("step"))
        for name, value in {
            "reset_peak_memory_stats": None,
            "memory_allocated": 500,
            "max_memory_allocated": 1700,
            "empty_cache": None,
            "mem_get_info": (7_000, 10_000),
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, n=name, v=value: (did.append(n), v)[1])
        assert r._kv_bytes() == 5_000 - 3_000 - 1_200
        assert did.index("reset_peak_memory_stats") < did.index("step") < did.index("max_memory_allocated")
        assert did.index("step") < did.index("empty_cache") < did.index("mem_get_info")

        def too_large():
            raise torch.OutOfMemoryError

        monkeypatch.setattr(r, "_try_largest_step", too_large)
        with pytest.raises(ConfigError, match=r"max_num_batched_tokens = .* does not fit cuda beside the weights"):
            r._kv_bytes()

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
    def test_on_a_gpu_the_largest_step_fits_beside_the_cache(self, tiny_model):
        config = EngineConfig(model=str(tiny_model("llama")), device="cuda", gpu_memory_utilization=0.3)
        r = ModelRunner(config)
        plan = r._largest_plan()
        torch.cuda.reset_peak_memory_stats()
        r.run(plan)
        assert torch.cuda.max_memory_allocated() < 0.3 * torch.cuda.mem_get_info()[1]


class TestSeam:
    def test_no_mask_is_made_for_our_attention(self, tiny_model):
        """transformers leaves masks alone for names it has no mask function for; the seam relies on it."""
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

        assert ATTENTION not in ALL_MASK_ATTENTION_FUNCTIONS
        assert runner(tiny_model("llama"), num_kv_blocks=64).model.module.model.config._attn_implementation == ATTENTION

    def test_the_hash_domain_names_what_changes_keys_and_values(self, tiny_model):
        names = [name for name, _ in runner(tiny_model("llama"), num_kv_blocks=64).hash_domain()]
        assert names == ["model", "kv_dtype", "kv_layout", "epoch"]


class TestBatch:
    def build(self, *rows, block_size=4):
        return BatchBuilder(64, 8, 16, block_size, torch.device("cpu")).build(Plan(list(rows)))

    def row(self, tokens, table, committed, count, *, sampled=True, copy=None):
        s = seq(prompt=tokens)
        s.block_table, s.committed = list(table), committed
        return Row(s, count, [s] if sampled else [], copy)

    def test_decodes_come_first_and_every_index_is_where_it_should_be(self):
        prefill = self.row(range(10, 20), [7, 3, 9], 4, 5, sampled=False)
        decode = self.row(range(30, 37), [2, 5], 6, 1)
        last = self.row(range(40, 43), [4], 0, 3, copy=(8, 4))
        batch = self.build(prefill, decode, last)
        assert batch.input_ids.tolist() == [[36, 14, 15, 16, 17, 18, 40, 41, 42]]
        assert batch.positions.tolist() == [[6, 4, 5, 6, 7, 8, 0, 1, 2]]
        assert batch.slot_mapping.tolist() == [5 * 4 + 2, 12, 13, 14, 15, 9 * 4, 16, 17, 18]
        assert batch.block_tables.tolist() == [[2, 5, 0], [7, 3, 9], [4, 0, 0]]
        assert batch.context_lens.tolist() == [7, 9, 3]
        assert batch.query_start.tolist() == [0, 5, 8]
        assert batch.logit_indices.tolist() == [0, 8]
        assert [(row, s.token_ids[0]) for row, s in batch.samples] == [(0, 30), (1, 40)]
        assert batch.copies.tolist() == [[8, 4]]
        assert (batch.num_decodes, batch.num_tokens, batch.num_seqs) == (1, 9, 3)
        assert (batch.max_decode_context, batch.max_extend_context, batch.max_query_len) == (7, 9, 5)
        for longest_last, wanted in ((False, (decode, prefill, last)), (True, (decode, last, prefill))):
            assert ordered((prefill, decode, last), longest_last=longest_last) == wanted

    def test_only_decodes(self):
        batch = self.build(self.row(range(6), [1, 2], 5, 1), self.row(range(3), [3], 2, 1))
        assert batch.query_start.tolist() == [0]
        assert batch.max_extend_context == 0
        assert batch.num_decodes == batch.num_seqs == 2

    def test_only_one_prompt(self):
        batch = self.build(self.row(range(6), [1, 2], 0, 6))
        assert batch.num_decodes == 0
        assert batch.query_start.tolist() == [0, 6]
        assert batch.copies.shape == (0, 2)

    def test_siblings_share_a_row_of_logits(self):
        row = self.row(range(4), [1], 0, 4)
        row.samples.append(row.seq.fork(1, 5))
        batch = self.build(row)
        assert batch.logit_indices.tolist() == [3]
        assert [r for r, _ in batch.samples] == [0, 0]

    def test_every_tensor_of_a_batch_is_sent_by_one_copy(self):
        """So nothing else is copied to the device, which would wait for it."""
        builder = BatchBuilder(64, 8, 16, 4, torch.device("cpu"))
        fed = self.row(range(6), [1, 2], 6, 1)
        fed.is_fed = True
        plan = Plan([fed, self.row(range(12), [7, 8, 9], 0, 12, copy=(5, 7))])
        batch = builder.build(plan, {id(fed.seq): 3})
        assert batch.fed.tolist() == [3] and batch.positions[0, 0] == 6 and batch.lengths == (7, 12)
        tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
        assert len({t.untyped_storage().data_ptr() for t in tensors}) == 1
        assert all(t.storage_offset() * t.itemsize % 16 == 0 for t in tensors), "kernels are compiled for that"

    def test_a_step_leaves_nothing_in_the_next(self):
        builder = BatchBuilder(64, 8, 16, 4, torch.device("cpu"))
        builder.build(Plan([self.row(range(12), [9, 9, 9], 0, 12)]))
        batch = builder.build(Plan([self.row(range(2), [1], 1, 1), self.row(range(5), [2, 3], 4, 1)]))
        assert batch.block_tables.tolist() == [[1, 0], [2, 3]]
