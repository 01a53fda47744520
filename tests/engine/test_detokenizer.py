import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from chatpager.engine.detokenizer import TextStream, plain_pieces
from chatpager.engine.sequence import SamplingParams
from chatpager.engine.tokenizer import Tokenizer

TRICKY = ["😀", "👩‍👩‍👧‍👦", "你好世界", "é", "e\u0301", "🏳️‍🌈", "\u200d", "नमस्ते", "a\u0000b", "\ufeffx", "𝔘𝔫𝔦"]


@pytest.fixture(scope="module")
def tokenizer(chat_model):
    return Tokenizer(chat_model)


def stream(tokenizer, ids, **params):
    text = tokenizer.text_stream(SamplingParams(max_tokens=1, **params))
    pieces = [text.push(i) for i in ids]
    return [*pieces, text.finish()], text


@pytest.mark.parametrize("text", TRICKY)
def test_no_piece_has_half_a_character(tokenizer, text):
    pieces, _ = stream(tokenizer, tokenizer.encode_plain(f"x {text} y"))
    assert "".join(pieces) == f"x {text} y"
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=40))
def test_the_pieces_of_any_text_are_the_text(tokenizer, text):
    pieces, _ = stream(tokenizer, tokenizer.encode_plain(text))
    assert "".join(pieces) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("😀你é a"), max_size=12), cut=st.integers(0, 60))
def test_an_answer_cut_inside_a_character_drops_it(tokenizer, text, cut):
    ids = tokenizer.encode_plain(text)[:cut]
    joined = "".join(stream(tokenizer, ids)[0])
    assert "\ufffd" not in joined
    assert text.startswith(joined)
    assert len(tokenizer.decode(ids).rstrip("\ufffd")) == len(joined)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_plain_pieces_change_nothing(tokenizer, data):
    """Whatever ids stand side by side, half characters and special tokens too."""
    assert plain_pieces(tokenizer.backend) is not None
    ids = data.draw(st.lists(st.integers(0, tokenizer.backend.get_vocab_size() - 1), max_size=20))
    pieces, _ = stream(tokenizer, ids)
    text = TextStream(tokenizer.backend)
    assert pieces == [*(text.push(i) for i in ids), text.finish()]


def test_what_a_token_holds_in_front_of_half_a_character_is_kept(tokenizer):
    """A byte-level vocabulary has tokens such as a space with the first bytes of an emoji."""
    ids = tokenizer.encode_plain("x 😀")
    for cut in range(len(ids) + 1):
        whole = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
        assert "".join(stream(tokenizer, ids[:cut])[0]) == whole


def test_a_stop_string_in_the_last_token_ends_the_text(tokenizer):
    ids = tokenizer.encode_plain("x 😀")
    cut = next(n for n in range(len(ids)) if tokenizer.decode(ids[:n]) == "x \ufffd")
    pieces, got = stream(tokenizer, ids[:cut], stop=[" "])
    assert ("".join(pieces), got.stopped) == ("x", " ")


def test_special_tokens_have_no_text(tokenizer):
    eos = tokenizer.encode("<|im_end|>")
    assert "".join(stream(tokenizer, [*eos, *tokenizer.encode_plain("a"), *eos])[0]) == "a"


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="abc ", max_size=30),
    stops=st.lists(st.text(alphabet="abc ", min_size=1, max_size=4), max_size=3),
    include=st.booleans(),
)
def test_text_ends_before_the_first_stop_string_wherever_tokens_split_it(tokenizer, text, stops, include):
    ids = [i for letter in text for i in tokenizer.encode_plain(letter)]
    pieces, got = stream(tokenizer, ids, stop=stops, include_stop_str_in_output=include)
    found = [(text.find(s), -len(s)) for s in stops if s in text]
    # The first stop string to be complete wins: one that starts earlier but ends later has not been seen yet.
    ends = sorted((text.find(s) + len(s), text.find(s), s) for s in stops if s in text)
    if not found:
        assert "".join(pieces) == text
        assert got.stopped is None
    else:
        end = ends[0][0]
        candidates = [(start, s) for e, start, s in ends if e == end]
        start, stop = min(candidates)
        assert got.stopped == stop
        assert "".join(pieces) == (text[: start + len(stop)] if include else text[:start])


def test_text_that_may_become_a_stop_string_is_held_back_and_no_more(tokenizer):
    text = TextStream(tokenizer.backend, ["STOP"])
    given = [text.push(i) for c in "a STOq STO" for i in tokenizer.encode_plain(c)]
    assert given == ["a", " ", "", "", "", "STOq", " ", "", "", ""]
    assert text.finish() == "STO"
    assert text.text == "a STOq STO"


def test_after_a_stop_string_there_is_nothing(tokenizer):
    text = TextStream(tokenizer.backend, ["b"])
    for c in "abc":
        for i in tokenizer.encode_plain(c):
            text.push(i)
    assert text.text == "a"
    assert text.finish() == ""
    assert text.push(tokenizer.encode_plain("d")[0]) == ""


def test_no_stop_string_ends_the_text_before_min_tokens(tokenizer):
    ids = [i for letter in "abcabd" for i in tokenizer.encode_plain(letter)]
    for least, text in ((0, "a"), (1, "a"), (2, "abca"), (3, "abca"), (5, "abcabd")):
        got = TextStream(tokenizer.backend, ["b"], min_tokens=least)
        assert "".join([*(got.push(i) for i in ids), got.finish()]) == text
    told = tokenizer.text_stream(SamplingParams(max_tokens=9, min_tokens=2, stop=["b"]))
    assert "".join([*(told.push(i) for i in ids), told.finish()]) == "abca"


class TestBytesThatFallBack:
    """A vocabulary as of Llama 2, Mistral and Gemma: what is not in it is spelt in single bytes."""

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls):
        vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": 1 + byte for byte in range(256)}}
        vocab |= {letter: 257 + i for i, letter in enumerate("▁abcd")}
        backend = Backend(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
        strip = decoders.Strip(" ", 1, 0)
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
        backend.decoder = decoders.Sequence(steps)
        return backend

    @staticmethod
    def ids(backend, *parts):
        return [
            backend.token_to_id(name)
            for part in parts
            for name in ([f"<0x{byte:02X}>" for byte in part] if isinstance(part, bytes) else part.replace(" ", "▁"))
        ]

    @staticmethod
    def pieces(backend, ids):
        text = TextStream(backend)
        return [*(text.push(i) for i in ids), text.finish()]

    @settings(max_examples=300, deadline=None)
    @given(parts=st.lists(st.sampled_from(["a", "b", " c", "é".encode(), "你".encode(), "😀".encode()]), max_size=12))
    def test_whole_characters_come_through(self, backend, parts):
        text = "".join(p.decode() if isinstance(p, bytes) else p for p in parts)
        pieces = self.pieces(backend, self.ids(backend, *parts))
        assert "".join(pieces) == text.removeprefix(" ")

    def test_a_stray_byte_does_not_take_back_what_was_shown(self, backend):
        ids = self.ids(backend, "é".encode(), b"\xe4", "a bé".replace("é", ""), "é".encode(), " c")
        assert "".join(self.pieces(backend, ids)) == "é\ufffda bé c"

    def test_the_space_after_a_stray_byte_is_kept(self, backend):
        assert "".join(self.pieces(backend, self.ids(backend, "é".encode(), b"\xe4", " a"))) == "é\ufffd a"

    @settings(max_examples=500, deadline=None)
    @given(
        parts=st.lists(
            st.sampled_from(["a", " b", "é".encode(), "😀".encode(), b"\xe4", b"\xbd", b"\xf0\x9f", b"\xff", b"\x80"]),
            max_size=10,
        )
    )
    def test_any_bytes_do_no_harm(self, backend, parts):
        ids = self.ids(backend, *parts)
        joined = "".join(self.pieces(backend, ids))
        assert [c for c in joined if c in "abcd"] == [c for p in parts if isinstance(p, str) for c in p if c in "abcd"]
        assert not joined.endswith("\ufffd")
