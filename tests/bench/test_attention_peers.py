"""What other libraries are handed is the call that ours got. Stand-ins have their published signatures and compute with
our kernels, from nothing but what they were given."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from chatpager.bench import attention_peers, gpu_kernels, kernels
from chatpager.bench.attention_peers import NOT_INSTALLED, Peer, columns, error_of, peers, sampled, sampled_tokens
from chatpager.bench.page_lists import page_lists, query_starts
from chatpager.kernels import paged_attention

HEADS = 4, 2, 16
HAS_GPU = torch.cuda.is_available()
WHERE = torch.device("cuda" if HAS_GPU else "cpu")
CPU = torch.device("cpu")
DECODES = [gpu_kernels.attention_call(CPU, torch.float32, HEADS, lens) for lens in ([40, 40, 40], [1, 16, 17, 33])]
EXTENDS = [
    gpu_kernels.attention_call(CPU, torch.float32, HEADS, [37, 16], [5, 16]),
    gpu_kernels.attention_call(CPU, torch.float32, HEADS, [70], [3]),
]
CALLS = DECODES + EXTENDS


def attend(query, caches, tables, lengths, starts, scale):
    counts = starts.diff().tolist()
    options = {} if set(counts) == {1} else {"query_start": starts, "max_query_len": max(counts)}
    return paged_attention.forward(
        query, *caches, tables, lengths, caches[0].shape[1], int(lengths.max()), scale=scale, **options
    )


class Wrapper:
    """FlashInfer's, for decodes and prompts."""

    def __init__(self, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False, use_tensor_cores=False):
        assert float_workspace_buffer.dtype == torch.uint8 and not float_workspace_buffer.any() and kv_layout == "NHD"
        self.device, self.use_tensor_cores = float_workspace_buffer.device, use_tensor_cores

    def reset_workspace_buffer(self, float_workspace_buffer, int_workspace_buffer):
        assert int_workspace_buffer.device == self.device

    def run(self, q, paged_kv_cache):
        starts, indices, last = self.pages
        counts = starts.diff().tolist()
        tables = torch.full((len(counts), max(counts)), -1, dtype=torch.int32)
        for row, part in enumerate(indices.split(counts)):
            tables[row, : len(part)] = part
        lengths = (starts.diff() - 1) * self.page_size + last
        return attend(q, paged_kv_cache, tables, lengths, self.queries, self.scale)

    def _plan(self, pages, queries, page_size, sm_scale, q_data_type, kv_data_type):
        assert all(part.dtype == torch.int32 for part in (*pages, queries)) and q_data_type == kv_data_type
        self.pages, self.queries, self.page_size, self.scale = pages, queries, page_size, sm_scale


class Decode(Wrapper):
    def plan(
        self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size,
        pos_encoding_mode="NONE", window_left=-1, q_data_type="float16", kv_data_type=None, sm_scale=None,
    ):  # fmt: skip
        assert (num_qo_heads, num_kv_heads, head_dim) == HEADS
        starts = torch.arange(len(indptr), dtype=torch.int32)
        self._plan((indptr, indices, last_page_len), starts, page_size, sm_scale, q_data_type, kv_data_type)


class Prefill(Wrapper):
    def plan(
        self, qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, num_qo_heads, num_kv_heads,
        head_dim_qk, page_size, head_dim_vo=None, causal=False, sm_scale=None, q_data_type="float16",
        kv_data_type=None,
    ):  # fmt: skip
        assert (num_qo_heads, num_kv_heads, head_dim_qk) == HEADS and causal
        pages = paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len
        self._plan(pages, qo_indptr, page_size, sm_scale, q_data_type, kv_data_type)


def planned(
    batch_size, max_seqlen_q, max_seqlen_k, num_heads_q, num_heads_kv, headdim, cache_seqlens,
    qkv_dtype=torch.bfloat16, headdim_v=None, cu_seqlens_q=None, page_size=None, causal=False, num_splits=0,
):  # fmt: skip
    assert (num_heads_q, num_heads_kv, headdim) == HEADS and causal and page_size == 16
    return batch_size, max_seqlen_q, max_seqlen_k, cache_seqlens.tolist()


def with_cache(
    q, k_cache, v_cache, k=None, v=None, cache_seqlens=None, page_table=None, cu_seqlens_q=None, max_seqlen_q=None,
    softmax_scale=None, causal=False, scheduler_metadata=None, num_splits=0,
):  # fmt: skip
    rows, most = len(cache_seqlens), max_seqlen_q or q.shape[1]
    assert scheduler_metadata == (rows, most, int(cache_seqlens.max()), cache_seqlens.tolist()) and causal
    starts = torch.arange(rows + 1, dtype=torch.int32) if cu_seqlens_q is None else cu_seqlens_q
    out = attend(q.flatten(0, -3), (k_cache, v_cache), page_table, cache_seqlens, starts, softmax_scale)
    return out.view(q.shape)


def varlen(
    q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, cu_seqlens_k=None, seqused_k=None, softmax_scale=None,
    causal=False, block_table=None, out=None, scheduler_metadata=None, num_splits=0, fa_version=2,
):  # fmt: skip
    assert fa_version == 3 and scheduler_metadata[1:3] == (max_seqlen_q, max_seqlen_k) and causal
    return attend(q, (k, v), block_table, seqused_k, cu_seqlens_q, softmax_scale)


def unified(
    q, k, v, out, cu_seqlens_q, max_seqlen_q, seqused_k, max_seqlen_k, softmax_scale, causal, window_size, block_table,
    softcap, q_descale, k_descale, v_descale, seq_threshold_3D=None, num_par_softmax_segments=None,
    softmax_segm_output=None, softmax_segm_max=None, softmax_segm_expsum=None,
):  # fmt: skip
    assert causal and window_size == (-1, -1) and softcap == 0 and k_descale.shape == (len(seqused_k), HEADS[1])
    assert softmax_segm_output.shape == (seq_threshold_3D, HEADS[0], num_par_softmax_segments, HEADS[2])
    assert softmax_segm_max.shape == softmax_segm_expsum.shape == softmax_segm_output.shape[:3]
    out.copy_(attend(q, (k, v), block_table, seqused_k, cu_seqlens_q, softmax_scale))


STAND_INS = {
    "flashinfer": {"BatchDecodeWithPagedKVCacheWrapper": Decode, "BatchPrefillWithPagedKVCacheWrapper": Prefill},
    "flash_attn_interface": {"flash_attn_with_kvcache": with_cache, "get_scheduler_metadata": planned},
    "vllm_flash_attn.flash_attn_interface": {"flash_attn_varlen_func": varlen, "get_scheduler_metadata": planned},
    "vllm.v1.attention.ops.triton_unified_attention": {"unified_attention": unified},
}


@pytest.fixture
def install(monkeypatch):
    """None of them is here until it is installed."""
    for name in ("flashinfer", "flash_attn_interface", "vllm", "vllm_flash_attn"):
        monkeypatch.setitem(sys.modules, name, None)

    def installed(*names):
        for name in names:
            parts = name.split(".")
            for i in range(1, len(parts)):
                monkeypatch.setitem(sys.modules, ".".join(parts[:i]), package := ModuleType(parts[i - 1]))
                package.__path__ = []
            module = ModuleType(name)
            vars(module).update(STAND_INS[name])
            monkeypatch.setitem(sys.modules, name, module)
        return {peer.name: peer for peer in peers()}

    return installed


@pytest.mark.parametrize("lengths", [[40], [1, 16, 17, 0, 33, 160], [0, 5]])
def test_page_lists_name_every_token_and_no_other(lengths):
    call = gpu_kernels.attention_call(CPU, torch.float32, HEADS, [max(1, n) for n in lengths])
    call = call._replace(context_lens=torch.tensor(lengths, dtype=torch.int32))
    lists = page_lists(call)
    for row, length in enumerate(lengths):
        pages = lists.indices[lists.starts[row] : lists.starts[row + 1]].tolist()
        assert pages == call.block_tables[row, : -(-length // 16)].tolist()
        assert lists.last_page_len[row] == length - 16 * max(0, len(pages) - 1)
    assert len(lists.indices) == lists.starts[-1] and all(part.dtype == torch.int32 for part in lists)
    assert query_starts(call).tolist() == list(range(len(lengths) + 1))


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_a_few_tokens_tell_what_is_right(call):
    out = attend(*call[:1], call[1:3], call.block_tables, call.context_lens, query_starts(call), call.scale)
    assert error_of(out, call, sampled(call)) < 1e-6
    assert error_of(out * 1.1, call, sampled(call)) == pytest.approx(0.1, rel=1e-3)
    assert len(sampled_tokens(call)) == min(4, len({t for t, _, _ in sampled_tokens(call)}))


def test_what_is_not_installed_is_said_so(install):
    among = install()
    assert [peer.found for name, peer in among.items() if name != "contiguous"] == 3 * [NOT_INSTALLED]
    told = columns(list(among.values()), DECODES[:1], 0.0)
    assert told.pop("contiguous_us") > 0
    assert told == {f"{name}_us": NOT_INSTALLED for name in ("fa3", "vllm", "flashinfer")}


@pytest.mark.parametrize("flash_attention", ["flash_attn_interface", "vllm_flash_attn.flash_attn_interface"])
def test_each_computes_what_the_reference_does(install, flash_attention):
    among = install("flashinfer", flash_attention, "vllm.v1.attention.ops.triton_unified_attention")
    names = [f"{name}_us" for name in ("contiguous", "fa3", "vllm", "flashinfer")]
    for call in CALLS:
        told = columns(list(among.values()), [call], 0.0)
        assert list(told) == (names if call is DECODES[0] else names[1:])
        assert all(isinstance(us, float) for us in told.values()), told


def test_one_that_is_wrong_or_fails_costs_nobody_else_a_figure(install, monkeypatch):
    def not_for_this(*_, **__):
        raise RuntimeError("no kernel for it\nat all")

    install("flashinfer", "vllm.v1.attention.ops.triton_unified_attention")
    monkeypatch.setattr(Wrapper, "run", lambda self, q, caches: torch.full_like(q, torch.nan))
    monkeypatch.setitem(STAND_INS["vllm.v1.attention.ops.triton_unified_attention"], "unified_attention", not_for_this)
    among = install("vllm.v1.attention.ops.triton_unified_attention")
    told = columns(list(among.values()), DECODES[:1], 0.0)
    assert told["contiguous_us"] > 0 and told["flashinfer_us"] == "wrong by nan" and told["fa3_us"] == NOT_INSTALLED
    assert told["vllm_us"] == "fails: RuntimeError no kernel for it"


def test_one_that_is_here_and_lacks_something_says_what(install, monkeypatch):
    install("vllm_flash_attn.flash_attn_interface")
    fork = sys.modules["vllm_flash_attn.flash_attn_interface"]
    fork.FA3_AVAILABLE, fork.FA3_UNAVAILABLE_REASON = False, "libcudart.so.13: cannot open"
    among = {peer.name: peer for peer in peers()}
    assert among["fa3"].found == "cannot be imported: ImportError libcudart.so.13: cannot open"
    assert columns([among["fa3"]], DECODES[:1], 0.0) == {"fa3_us": among["fa3"].found}


@pytest.mark.parametrize("error", [RuntimeError("no driver\nat all"), AttributeError("no such dtype")])
def test_one_whose_import_raises_anything_says_what(error):
    def load():
        raise error

    peer = attention_peers._peer("any", load, ())
    assert (peer.make, peer.found) == (None, f"cannot be imported: {type(error).__name__} {str(error).splitlines()[0]}")


def test_a_failed_capture_leaves_its_stream_and_no_figure_but_its_own_is_lost(monkeypatch):
    """Of a GPU's call, which fails as torch does: the capture's stream stays the current one."""
    ours, lost = SimpleNamespace(device=WHERE), []
    current = [ours]

    def wait(device):
        if lost:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def make(call):
        torch.cuda.set_stream(SimpleNamespace(device=WHERE))
        raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", current.append)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    call = SimpleNamespace(query=SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32))
    told = attention_peers._column(make, [call], torch.ones(1), 0.0)
    assert told == "fails: AcceleratorError CUDA error: operation not permitted when stream is capturing"
    assert len(current) == 3 and current[-1] is ours
    lost.append(True)
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        attention_peers._column(make, [call], torch.ones(1), 0.0)


def test_calls_that_nobody_else_has_are_passed_over():
    with_scales = gpu_kernels.attention_call(CPU, torch.float32, HEADS, [5], kept_as=torch.int8)
    assert columns([Peer("any", None, NOT_INSTALLED)], [with_scales], 0.0) == {}


def ours():
    """A result before the peers: one call of decode and one of another kernel."""
    row = {"rows": 1, "context": 70, "kernel_us": 2.5, "torch_us": 5.0, "times": 2.0, "of_ceiling": 0.5}
    told = {"what": "w", "dtype": "d", "device": "cuda", "threads": 1, "ready_s": 0.0, "ceiling_gb_s": 1.0}
    return {**told, "shape": "8/4/32", "calls": [row], "others": [{"kernel": "extend", "us": 2.0}]}


def test_they_stand_in_both_tables(monkeypatch, capsys):
    case = gpu_kernels.Case("extend", "3 behind 67", 2e6, 8e9, lambda: None, call=EXTENDS[1])
    monkeypatch.setattr(gpu_kernels, "cases", lambda *_: [case])
    monkeypatch.setattr(attention_peers, "peers", lambda: [Peer(name, None, NOT_INSTALLED) for name in ("fa3", "slow")])
    result = ours()
    rows = *result["calls"], *result["others"]
    filled = [[len(row) for row in rows] for _ in kernels._peers(result, CPU, torch.float32, 0.0)]
    assert filled == [[7, 2], [7, 3], [8, 3], [8, 4]], "the slow one comes behind all of the other's"
    assert all(row["fa3_us"] == row["slow_us"] == NOT_INSTALLED for row in rows)
    result["calls"][0]["fa3_us"] = 3.5
    kernels._print(result)
    printed = capsys.readouterr().out
    assert "fa3 us" in printed and "3.5" in printed and "fa3: not installed" in printed


def test_a_device_that_they_lose_costs_none_of_our_figures(monkeypatch, capsys, tmp_path):
    def lost(result, *_):
        result["calls"][0]["fa3_us"] = 3.5
        yield
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(kernels, "_peers", lost)
    with pytest.raises(torch.AcceleratorError):
        kernels._finish(ours(), torch.device("cuda"), torch.float32, 0.0, str(tmp_path / "kernels.json"))
    saved = json.loads((tmp_path / "kernels.json").read_text())
    assert saved["calls"] == [ours()["calls"][0] | {"fa3_us": 3.5}] and saved["others"] == ours()["others"]
    assert "2.5" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")
def test_on_a_gpu_one_that_cannot_be_captured_costs_the_next_nothing():
    def make(call):
        def work():
            torch.cuda.synchronize()
            return attend(call.query, call[1:3], call.block_tables, call.context_lens, query_starts(call), call.scale)

        return work

    call = gpu_kernels.attention_call(WHERE, torch.bfloat16, (8, 2, 64), [40, 40])
    before = torch.cuda.current_stream()
    among = [Peer("waiting", make, ""), *(peer for peer in peers() if peer.name == "contiguous")]
    told = columns(among, [call], 0.0)
    assert told["waiting_us"].startswith("fails: ") and isinstance(told["contiguous_us"], float)
    assert torch.cuda.current_stream() == before


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("lengths", [[300] * 4, [1, 500, 17]])
@pytest.mark.parametrize("new", [None, [1, 100, 17, 3]])
def test_on_a_gpu_those_that_are_here_are_right(lengths, new):
    new = new and new[: len(lengths)]
    call = gpu_kernels.attention_call(WHERE, torch.bfloat16, (8, 2, 64), lengths, new)
    here = [peer for peer in peers() if peer.make is not None]
    for name, us in columns(here, [call], 0.0).items():
        assert isinstance(us, float), (name, us)


def test_every_peer_is_known_by_the_column_of_its_name():
    assert list(attention_peers.KNOWN) == [peer.name for peer in peers()]
