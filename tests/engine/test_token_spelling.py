"""What single tokens stand for, against the text that they are the tokens of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from chatpager.engine.token_spelling import TokenSpelling
from chatpager.engine.tokenizer import Tokenizer as ChatTokenizer


@pytest.fixture(scope="module")
def tokenizer(chat_model):
    return ChatTokenizer(chat_model)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_the_bytes_of_a_text_s_tokens_are_the_text_s(tokenizer, text):
    spelled = [tokenizer.spell(token_id) for token_id in tokenizer.encode_plain(text)]
    assert b"".join(one.bytes for one in spelled) == text.encode()


@given(text=st.text("ab 你😀é\n", max_size=8))
def test_a_token_s_text_is_that_of_its_bytes_or_names_them(tokenizer, text):
    for token_id in tokenizer.encode_plain(text):
        shown, raw = tokenizer.spell(token_id)
        if shown.startswith("bytes:"):
            assert bytes.fromhex(shown.removeprefix("bytes:").replace("\\x", "")) == raw
            with pytest.raises(UnicodeDecodeError):
                raw.decode()
        else:
            assert shown.encode() == raw


def test_a_special_token_has_its_own_text(tokenizer):
    assert tokenizer.spell(2).text == "<|im_end|>"


def test_every_token_has_a_spelling(tokenizer):
    for token_id in range(tokenizer.backend.get_vocab_size()):
        assert tokenizer.spell(token_id).bytes


def test_bytes_that_stand_for_unknown_characters():
    vocab = {"<unk>": 0, "▁hello": 1, "<0xE4>": 2, "<0xBD>": 3, "<0xA0>": 4, "▁": 5}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_tokens([AddedToken("▁kept", normalized=False)])
    spell = TokenSpelling(backend).spell
    assert spell(1) == (" hello", b" hello")
    assert b"".join(spell(i).bytes for i in (2, 3, 4)) == "你".encode()
    assert spell(2).text == "bytes:\\xe4"
    assert spell(6).text == "▁kept"


def test_a_vocabulary_without_a_decoder_is_shown_as_it_is():
    backend = Tokenizer(models.WordLevel({"a": 0, "▁b": 1}, unk_token="a"))
    assert [TokenSpelling(backend).spell(i).text for i in (0, 1)] == ["a", "▁b"]
