import json

import pytest
import torch

from chatpager.bench import linears
from chatpager.errors import ConfigError

SMALL = {"outputs": 40, "inputs": 33, "dtype": "bfloat16", "rows": [1, 3], "threads": 1, "rounds": 1, "out": None}


def test_every_way_is_timed_for_every_number_of_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(linears, "COLD_BYTES", 1)
    out = tmp_path / "linears.json"
    result = linears.run(**SMALL | {"out": str(out)})
    assert json.loads(out.read_text()) == result
    for product, rows in zip(result["products"], (1, 3), strict=True):
        assert product.pop("rows") == rows
        assert {"torch_ms", "kernel_ms"} <= set(product) and all(took > 0 for took in product.values())
    assert "kernel ms" in capsys.readouterr().out
    assert torch.get_num_threads() == 1


def test_all_ways_compute_the_same():
    weight, x = torch.randn(40, 33).bfloat16(), torch.randn(3, 33).bfloat16()
    packed = [linears.Packed(weight, None)] if linears.packs(torch.bfloat16) else []
    ways = linears._ways([weight], packed, 3)
    wanted = ways["torch"](x, 0)
    if packed:
        torch.testing.assert_close(ways["packed"](x, 0), wanted, rtol=2**-7, atol=1e-2)
    assert ways["kernel"](x, 0) is True


@pytest.mark.parametrize(
    ("name", "value"), [("dtype", "int8"), ("outputs", 0), ("inputs", -1), ("rows", [0]), ("threads", 0), ("rounds", 0)]
)
def test_what_cannot_be_measured_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        linears.run(**SMALL | {name: value})
