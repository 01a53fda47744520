"""The measurement itself, small."""

import json

import pytest
import torch

from chatpager.bench import kernels
from chatpager.engine.kv_cache import KVCache
from chatpager.errors import ConfigError

CPU = torch.device("cpu")


def test_every_call_has_both_times_and_its_share_of_the_ceiling(tmp_path, capsys):
    out = tmp_path / "kernels.json"
    result = kernels.run(
        shape="8/4/32", dtype="float32", threads=1, most_tokens=256, seconds=0.01, out=str(out)
    )  # fmt: skip
    assert json.loads(out.read_text()) == result
    assert [(call["rows"], call["context"]) for call in result["calls"]] == [(1, 64), (4, 64)]
    for call in result["calls"]:
        read = 2 * call["rows"] * call["context"] * 4 * 32 * 4
        share = read / (call["kernel_us"] * 1e-6) / (result["ceiling_gb_s"] * 1e9)
        assert call["of_ceiling"] == pytest.approx(share, rel=0.02, abs=2e-3)
        assert call["times"] == pytest.approx(call["torch_us"] / call["kernel_us"], rel=0.02)
    assert "of ceiling" in capsys.readouterr().out
    page = out.with_suffix(".html").read_text()
    assert page.count("<svg") == 2 and page.count("<tr>") == 1 + len(result["calls"])
    assert torch.get_num_threads() == 1


def test_both_sides_compute_the_same():
    call = kernels._calls((8, 4, 32), torch.float32, CPU, 5, 64)[0]
    call.key_cache.normal_()
    call.value_cache.normal_()
    kernels.gather_all(call)
    gathered = call.out.clone()
    for way in kernels._ways(CPU):
        call.out.zero_()
        way(call)
        assert torch.allclose(call.out, gathered, atol=1e-5)


def test_on_a_gpu_small_and_large_calls_are_measured():
    """One row up to 4,096 tokens, 128 MiB of keys and values, and from 256 MiB on, up to what a step may read."""
    shape = kernels.SHAPES[kernels.DEFAULT_SHAPE["cuda"]]
    found = kernels._grid("cuda", shape, torch.bfloat16, 1 << 20)
    assert {(1, 4096), (4, 8192), (64, 1024), (64, 8192), (16, 32_768)} <= set(found)
    read = {kernels._bytes(shape, torch.bfloat16, rows * context) >> 20 for rows, context in found}
    assert {128, 256} <= read and max(read) == 4096


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu():
    result = kernels.run(
        shape="8/4/32", dtype="bfloat16", device="cuda", threads=1, most_tokens=256, seconds=0.01, out=None
    )
    assert all(call["kernel_us"] > 0 and call["torch_us"] > 0 for call in result["calls"])


def test_the_calls_of_a_measurement_share_no_page():
    calls = kernels._calls((8, 4, 32), torch.float32, CPU, 256, 320)
    tables = torch.cat([call.block_tables for call in calls])
    assert tables.unique().numel() == tables.numel() == calls[0].key_cache.shape[0]


def test_keys_and_values_lie_as_in_the_engine() -> None:
    """Or torch's side could not run rows together, and we would be compared with less than it can."""
    call = kernels._calls((8, 4, 32), torch.float32, CPU, 16, 64)[0]
    cache = KVCache.allocate(1, 4, 16, 4, 32, torch.float32, torch.device("cpu"))
    for ours, theirs in ((call.key_cache, cache.keys[0]), (call.value_cache, cache.values[0])):
        assert ours.shape[1:] == theirs.shape[1:] and ours.stride() == theirs.stride()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"shape": "1/2/3"}, "shape"),
        ({"dtype": "float16"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"threads": 0}, "threads"),
        ({"seconds": 0}, "seconds"),
        ({"most_tokens": 1}, "most_tokens"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, words):
    good = {"shape": "8/4/32", "dtype": "float32", "threads": 1, "most_tokens": 256, "seconds": 0.01, "out": None}
    with pytest.raises(ConfigError, match=words):
        kernels.run(**{**good, **wrong})
