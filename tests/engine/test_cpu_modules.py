"""The exchanged linears compute what ``nn.Linear`` does, whoever asks first, and keep nothing they need not."""

import gc
import weakref

import pytest
import torch
import transformers
from torch import nn

from chatpager.engine import cpu_linears, cpu_modules, cpu_stack, loader
from chatpager.engine.cpu_linears import Maker, Packed, Streamed
from chatpager.engine.cpu_modules import Part
from chatpager.kernels import cpu_linear
from chatpager.kernels.cpu_linear import Weights
from tests.engine.models import SHAPE, configs

DTYPES = [torch.bfloat16, torch.float32]
ROWS = [1, 2, 3, 16, 17, 300]


def exchange(module, **options):
    cpu_modules.exchange_linears(module, Maker(**options))


class Reader(nn.Module):
    """Names as in a model's attention and MLP; ``order`` is that of the calls."""

    def __init__(self, names, dtype, bias=False, sizes=(40, 24, 8), order=None):
        super().__init__()
        for name, size in zip(names, sizes, strict=False):
            setattr(self, name, nn.Linear(48, size, bias=bias, dtype=dtype))
        self.requires_grad_(False)
        self.names, self.order = names, order or names

    def forward(self, x):
        given = {name: getattr(self, name)(x) for name in self.order}
        return [given[name] for name in self.names]


QKV, MLP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


def exact(x, linear):
    """In float64, so that the reference rounds nothing."""
    bias = None if linear.bias is None else linear.bias.double()
    return nn.functional.linear(x.double(), linear.weight.double(), bias)


def close(got, wanted, dtype):
    """One or two roundings to the dtype apart from the exact sum, which is around 1; the sum itself is float32's."""
    assert got.dtype is dtype
    rtol, atol = (2**-8, 2e-3) if dtype is torch.bfloat16 else (1e-5, 1e-5)
    torch.testing.assert_close(got.double(), wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dots", sorted({False, cpu_linear.has_dots()}))
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_linear_computes_what_the_plain_one_does(dtype, bias, dots, monkeypatch):
    monkeypatch.setattr(cpu_linear, "has_dots", lambda: dots)
    monkeypatch.setattr(cpu_linears, "TILE", 48 * 12)
    monkeypatch.setattr(cpu_linears, "TILE_ROWS", 5)  # several tiles, and a last one that is not full
    model = nn.Sequential(nn.Linear(48, 37, bias=bias, dtype=dtype)).requires_grad_(False)
    plain = model[0]
    exchange(model)
    assert type(model[0]) in (Packed, Streamed)
    with torch.inference_mode():
        for rows in ROWS:
            for shape in ((rows, 48), (1, rows, 48)):
                x = torch.randn(shape).to(dtype)
                got = model(x)
                assert got.shape == (*shape[:-1], 37)
                close(got, exact(x, plain), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rows_give_no_rows(dtype):
    """A step in which no sequence is sampled asks for no logits."""
    model = nn.Sequential(nn.Linear(48, 37, bias=False, dtype=dtype)).requires_grad_(False)
    exchange(model)
    assert model(torch.empty(1, 0, 48, dtype=dtype)).shape == (1, 0, 37)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_not_contiguous_are_read_right(dtype):
    model = nn.Sequential(nn.Linear(48, 37, dtype=dtype)).requires_grad_(False)
    plain = model[0]
    exchange(model)
    for rows in (1, 2, 30):
        x = torch.randn(rows, 90).to(dtype)[:, 7:55]
        close(model(x), exact(x, plain), dtype)
        x = torch.randn(48, rows).to(dtype).t()
        close(model(x), exact(x, plain), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_numba_cannot_be_had_onednn_packs_and_the_rest_is_widened(dtype, monkeypatch):
    monkeypatch.setattr(cpu_linear, "kernels", lambda *_: None)
    model = nn.Sequential(nn.Linear(48, 37, dtype=dtype)).requires_grad_(False)
    plain = model[0]
    exchange(model)
    assert type(model[0]) is (Packed if cpu_linears.packs(dtype) else Streamed)
    for rows in ROWS:
        x = torch.randn(rows, 48).to(dtype)
        close(model(x), exact(x, plain), dtype)


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_in_eight_bits_each_weight_is_at_most_half_a_step_off(dtype, bias, numba, monkeypatch):
    monkeypatch.setattr(cpu_linears, "TILE", 48 * 12)
    monkeypatch.setattr(cpu_linears, "TILE_ROWS", 5)
    if not numba:
        monkeypatch.setattr(cpu_linear, "kernels", lambda *_: None)
    model = nn.Sequential(nn.Linear(48, 37, bias=bias, dtype=dtype)).requires_grad_(False)
    plain = model[0]
    plain.weight[5] = 0
    plain.weight[6] *= 1000
    exchange(model, int8=True)
    whole, scale, _ = model[0].weights
    assert whole.dtype is torch.int8 and whole.abs().amax(1).tolist() == [0 if i == 5 else 127 for i in range(37)]
    stored = whole.double() * scale.double()[:, None]
    assert ((stored - plain.weight.double()).abs() <= 0.501 * scale.double()[:, None]).all()
    plain.weight = nn.Parameter(stored, requires_grad=False)
    for rows in ROWS:
        x = torch.randn(1, rows, 48).to(dtype)
        torch.testing.assert_close(model(x).double(), exact(x, plain), rtol=2**-8, atol=2e-3)


@pytest.mark.parametrize("numba", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 4, 5, 16, 17, 65])
def test_widening_computes_what_torch_does(rows, numba, monkeypatch):
    """Also where oneDNN would be taken."""
    monkeypatch.setattr(cpu_linears, "packs", lambda _: False)
    monkeypatch.setattr(cpu_linear, "has_dots", lambda: False)
    if not numba:
        monkeypatch.setattr(cpu_linear, "kernels", lambda *_: None)
    model = nn.Sequential(nn.Linear(48, 37, dtype=torch.bfloat16)).requires_grad_(False)
    plain = model[0]
    exchange(model)
    assert type(model[0]) is Streamed
    x = torch.randn(1, rows, 48).bfloat16()
    close(model(x), exact(x, plain), torch.bfloat16)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("names", [QKV, MLP])
@pytest.mark.parametrize("dtype", DTYPES)
def test_merged_linears_compute_what_the_plain_ones_do(dtype, names, bias):
    reader = Reader(names, dtype, bias)
    plain = [getattr(reader, name) for name in names]
    exchange(reader)
    assert all(type(getattr(reader, name)) is Part for name in names)
    for rows in ROWS:
        x = torch.randn(1, rows, 48).to(dtype)
        for got, linear in zip(reader(x), plain, strict=True):
            close(got, exact(x, linear), dtype)


@pytest.mark.parametrize("order", [("v_proj", "q_proj", "k_proj"), ("k_proj", "v_proj", "q_proj")])
def test_the_order_of_the_calls_is_free(order):
    reader = Reader(QKV, torch.float32, True, order=order)
    plain = [getattr(reader, name) for name in QKV]
    exchange(reader)
    x = torch.randn(3, 48)
    for got, linear in zip(reader(x), plain, strict=True):
        close(got, exact(x, linear), torch.float32)


def test_each_input_gets_its_own_answer():
    """Calls that do not come in rounds of three: every answer is that of the input it was asked with."""
    reader = Reader(QKV, torch.float32, True)
    plain = {name: getattr(reader, name) for name in QKV}
    exchange(reader)
    inputs = [torch.randn(2, 48) for _ in range(3)]
    generator = torch.Generator().manual_seed(3)
    for _ in range(200):
        name = QKV[int(torch.randint(3, (), generator=generator))]
        x = inputs[int(torch.randint(3, (), generator=generator))]
        close(getattr(reader, name)(x), exact(x, plain[name]), torch.float32)


def test_one_product_serves_a_round_and_an_equal_input_is_not_taken_for_the_same(monkeypatch):
    reader = Reader(QKV, torch.float32)
    exchange(reader)
    shared, products = reader.q_proj._shared, []
    linear = shared._linear
    monkeypatch.setattr(shared, "_linear", lambda x: products.append(x) or linear(x))
    x = torch.randn(2, 48)
    reader(x)
    assert len(products) == 1
    reader.q_proj(x)
    reader.k_proj(x.clone())
    assert len(products) == 3


def test_nothing_is_kept_of_an_input_after_its_round():
    reader = Reader(QKV, torch.float32)
    exchange(reader)
    x = torch.randn(2, 48)
    seen = [weakref.ref(x), *map(weakref.ref, reader(x))]
    del x
    gc.collect()
    assert not any(ref() is not None for ref in seen)


def test_what_a_broken_round_left_goes_with_the_next():
    reader = Reader(QKV, torch.float32)
    exchange(reader)
    x = torch.randn(2, 48)
    reader.q_proj(x)
    seen = weakref.ref(x)
    del x
    reader(torch.randn(2, 48))
    assert seen() is None


def test_unlike_linears_are_not_merged():
    reader = Reader(QKV, torch.float32)
    reader.v_proj = nn.Linear(48, 8).requires_grad_(False)  # a bias, which the others have not
    exchange(reader)
    assert {type(getattr(reader, name)) for name in QKV} == {Streamed}
    alone = Reader(QKV[:2], torch.float32)
    exchange(alone)
    assert {type(getattr(alone, name)) for name in QKV[:2]} == {Streamed}


class Own(nn.Linear):
    """Of a class that may compute something else."""


def test_what_is_not_understood_stays():
    reader = Reader(QKV, torch.float32)
    reader.v_proj = Own(48, 8, bias=False).requires_grad_(False)
    reader.norm, reader.table = nn.LayerNorm(48), nn.Embedding(5, 48)
    before = reader.v_proj, reader.norm, reader.table
    exchange(reader)
    assert (reader.v_proj, reader.norm, reader.table) == before
    assert type(reader.q_proj) is Streamed


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_numbers_are_left_to_torch(dtype):
    reader = Reader(QKV, dtype)
    before = dict(reader.named_modules())
    exchange(reader)
    assert dict(reader.named_modules()) == before


def held(module):
    """Bytes of all tensors that hang on the modules, packed ones included, each counted once."""
    seen = {}
    for child in module.modules():
        values = [*vars(child).values(), *child._parameters.values(), *child._buffers.values()]
        if (shared := getattr(child, "_shared", None)) is not None:
            values += vars(shared._linear).values()
        values += [kept for value in values if isinstance(value, Weights) for kept in value]
        for value in values:
            if isinstance(value, torch.Tensor):
                where = value.data_ptr() if value.layout is torch.strided else id(value)
                seen[where] = value.numel() * value.element_size()
    return sum(seen.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["qwen2", "phi3", "qwen3_moe"])
def test_a_loaded_model_holds_each_weight_once(tiny_model, architecture, dtype, monkeypatch):
    loaded = loader.load(tiny_model(architecture), dtype=dtype, device="cpu").module
    assert not any(type(child) is nn.Linear for child in loaded.modules())
    monkeypatch.setattr(cpu_modules, "exchange_linears", lambda *_: None)
    monkeypatch.setattr(cpu_stack, "exchange_layers", lambda *_: None)
    plain = loader.load(tiny_model(architecture), dtype=dtype, device="cpu").module
    wide_biases = sum(4 * p.numel() for name, p in plain.named_parameters() if name.endswith("proj.bias"))
    assert held(loaded) <= held(plain) + (wide_biases if dtype == "bfloat16" else 0)


def test_the_originals_are_let_go_of():
    reader = Reader(QKV, torch.float32)
    seen = [weakref.ref(getattr(reader, name)) for name in QKV]
    exchange(reader)
    gc.collect()
    assert not any(ref() is not None for ref in seen)


def test_weights_are_let_go_of_one_by_one(tiny_model, monkeypatch):
    """When one is made, those before it are gone: a model never takes twice its memory."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_model("llama")).requires_grad_(False)
    originals = [weakref.ref(child) for child in plain.modules() if type(child) is nn.Linear]
    counts, make = [], Maker.make

    def counted(self, linears):
        counts.append(sum(ref() is not None for ref in originals))
        return make(self, linears)

    monkeypatch.setattr(Maker, "make", counted)
    exchange(plain)
    # 2 layers of q, k, v and gate, up merged, then o and down, and lm_head
    assert counts == [15, 12, 10, 7, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tied_embedding_still_embeds(dtype):
    config = transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    ids = torch.randint(2, 200, (1, 9))
    with torch.inference_mode():
        embedded, wanted = model.model.embed_tokens(ids), model(ids).logits
        exchange(model)
        assert torch.equal(model.model.embed_tokens(ids), embedded)
        tolerance = 1e-5 if dtype is torch.float32 else 0.1
        torch.testing.assert_close(model(ids).logits, wanted, rtol=tolerance, atol=tolerance * wanted.std().item())


@pytest.mark.parametrize("rows", [1, 3, 16, 40])
def test_bfloat16_logits_are_as_near_the_exact_ones_as_transformers_own(rows, monkeypatch):
    """Against the same weights in float32: what is exchanged may round differently, not worse."""
    monkeypatch.setattr(cpu_linears, "packs", lambda _: False)
    config = transformers.LlamaConfig(**SHAPE)
    model = transformers.LlamaForCausalLM(config).bfloat16().eval().requires_grad_(False)
    exact_model = transformers.LlamaForCausalLM(config).eval()
    exact_model.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    ids = torch.randint(2, 200, (1, rows))
    with torch.inference_mode():
        wanted, own = exact_model(ids).logits, model(ids).logits.float()
        exchange(model)
        got = model(ids).logits.float()
    assert type(model.lm_head) is Streamed
    error, own_error = (got - wanted).norm(), (own - wanted).norm()
    assert error <= 1.5 * own_error
    assert error <= 0.03 * wanted.norm()


def test_every_served_architecture_gets_them(tiny_model, monkeypatch):
    """Merged where the projections are apart; Phi-3 comes merged."""
    monkeypatch.setattr(cpu_stack, "exchange_layers", lambda *_: None)
    for architecture in configs():
        model = loader.load(tiny_model(architecture), dtype="float32", device="cpu").module
        attention = model.model.layers[0].self_attn
        if architecture == "phi3":
            assert type(attention.qkv_proj) is Streamed
        else:
            assert {type(getattr(attention, name)) for name in QKV} == {Part}
        assert type(attention.o_proj) is type(model.lm_head) is Streamed
