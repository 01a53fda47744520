"""The tokenizer and the chat template."""

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from chatpager.demo import model_path
from chatpager.demo.conversations import stream
from chatpager.demo.tokenizer import (
    END_ID,
    EOT_ID,
    PAD_ID,
    SPECIAL,
    START_ID,
    Encoder,
    render,
    save_tokenizer,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def shipped():
    return AutoTokenizer.from_pretrained(model_path())


@pytest.fixture(scope="module")
def raw():
    return Tokenizer.from_file(str(model_path() / "tokenizer.json"))


def conversations(n=40):
    return list(islice(stream("tokenizer-test"), n))


@given(text=st.text(max_size=80))
def test_any_text_comes_back_whole(shipped, text):
    ids = shipped.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert shipped.decode(ids) == text


def test_every_byte_can_be_encoded(raw):
    for point in [*range(0x20), *range(0x7F, 0x800, 7), 0xFFFD, 0x1F600, 0x10FFFF]:
        assert raw.decode(raw.encode(chr(point)).ids, skip_special_tokens=False) == chr(point)
    assert sum(len(token) == 1 for token in raw.get_vocab()) >= 256


def test_the_special_tokens_have_their_ids_and_stand_alone(raw, shipped):
    assert [raw.token_to_id(t) for t in SPECIAL] == [PAD_ID, EOT_ID, START_ID, END_ID]
    assert raw.encode("a<|im_end|>b").ids[1] == END_ID
    assert (shipped.eos_token_id, shipped.pad_token_id) == (END_ID, PAD_ID)


def test_a_value_is_split_alike_wherever_it_stands(raw):
    for before, after in (("My name is", "."), ("Nice to meet you,", "!"), ("the code is", "")):
        for value in (" Clanoon", " 4711", " Zorblat Viest"):
            assert " ".join(raw.encode(value).tokens) in " ".join(raw.encode(before + value + after).tokens)
    chinese = raw.encode("李明轩").tokens
    assert " ".join(chinese) in " ".join(raw.encode("我叫李明轩。").tokens)


def test_the_template_extends(shipped):
    for c in conversations():
        texts = [shipped.apply_chat_template(c[:n], tokenize=False) for n in range(1, len(c) + 1)]
        assert all(b.startswith(a) for a, b in pairwise(texts))
        ids = shipped.apply_chat_template(c)["input_ids"]
        shorter = shipped.apply_chat_template(c[:-1], add_generation_prompt=True)["input_ids"]
        assert ids[: len(shorter)] == shorter


def test_the_template_takes_late_system_messages_and_parts_of_text(shipped):
    text = shipped.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
            {"role": "system", "content": "Be brief."},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\n"


def test_training_sees_the_text_of_the_template(shipped):
    for c in conversations():
        assert render(c) == shipped.apply_chat_template(c, tokenize=False)


def test_only_the_assistants_words_and_ends_are_trained(raw):
    for c, (ids, spoken) in zip(conversations(), Encoder(raw).encode(conversations()), strict=True):
        said = raw.decode([i for i, s in zip(ids, spoken, strict=True) if s], skip_special_tokens=False)
        assert said == "".join(m["content"] + "<|im_end|>" for m in c if m["role"] == "assistant")


def test_a_tokenizer_is_the_same_when_trained_again(tmp_path):
    texts = [render(c) for c in conversations(200)]
    first, second = (train_tokenizer(iter(texts), 600) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() == 600
    save_tokenizer(first, tmp_path, 128)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == 128
    assert again.encode("你好 4711") == first.encode("你好 4711").ids
