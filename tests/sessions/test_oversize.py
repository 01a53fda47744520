"""Inputs far beyond the context are refused without the work of tokenising them whole."""

import pytest

from chatpager.engine.chat_template import ChatMessage
from chatpager.errors import InputTooLong
from chatpager.sessions.oversize import PIECE, check_bytes, check_tokens
from tests.sessions.conftest import assistant, user


@pytest.fixture
def encoded(monkeypatch, tokenizer):
    """The lengths of the texts that the tokenizer is asked for, in characters."""
    lengths = []
    plain, rendered = tokenizer.encode_plain, tokenizer.encode_rendered
    monkeypatch.setattr(tokenizer, "encode_plain", lambda text: lengths.append(len(text)) or plain(text))
    monkeypatch.setattr(tokenizer, "encode_rendered", lambda text: lengths.append(len(text)) or rendered(text))
    return lengths


async def test_what_cannot_fit_is_refused_by_its_size_alone(rig, encoded):
    async with rig(length=200) as r:
        encoded.clear()
        with pytest.raises(InputTooLong, match="4000000 bytes, far more than fit the 200 tokens") as caught:
            await r.hub.submit(r.request("a" * 4_000_000))
        assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
        assert encoded == []
        await r.ask("Hello")
        assert encoded


async def test_what_the_size_allows_is_tokenised_no_further_than_needed(rig, tokenizer, encoded):
    size = 4 * PIECE
    limit = size // tokenizer.longest_token_bytes + 1
    async with rig(length=limit) as r:
        encoded.clear()
        with pytest.raises(InputTooLong, match=f"{size} bytes"):
            await r.hub.submit(r.request("\x07" * size))
        assert encoded and sum(encoded) < size


@pytest.mark.parametrize("token", ["the", " quick", "a", "你", "\U0001f600", " "])
def test_what_fits_is_never_refused(tokenizer, token):
    text = token * 5000
    messages = [ChatMessage("user", text)]
    limit = len(tokenizer.encode_plain(text))
    check_bytes(messages, tokenizer, limit)
    check_tokens(messages, tokenizer, limit)


def test_known_answers_their_thoughts_and_what_surrounds_a_text_do_not_count(tokenizer):
    messages = [
        ChatMessage("assistant", "a" * 9000, [5] * 9),
        ChatMessage("assistant", "<think>" + "a" * 6000 + "</think>b"),
        ChatMessage("user", " " * 9000 + "Hello"),
    ]
    check_bytes(messages, tokenizer, 1000)
    check_tokens(messages, tokenizer, 1000)


async def test_nor_does_a_thought_hide_an_answer_without_end(rig, encoded):
    async with rig(length=200) as r:
        encoded.clear()
        answer = assistant("The quick brown fox. " * 5000 + "</think>")
        with pytest.raises(InputTooLong):
            await r.hub.submit(r.request(messages=[user("a"), answer, user("b")], whole=True))
        assert sum(encoded) <= 2 * PIECE


async def test_an_answer_that_the_client_wrote_is_tokenised_no_further_than_needed(rig, encoded):
    async with rig(length=200) as r:
        encoded.clear()
        answer = assistant("The quick brown fox. " * 500)
        with pytest.raises(InputTooLong):
            await r.hub.submit(r.request(messages=[user("a"), answer, user("b")], whole=True))
        assert sum(encoded) <= PIECE


async def test_megabytes_of_space_around_a_text_are_refused_and_what_a_template_may_trim_is_not(rig, encoded):
    async with rig(length=200) as r:
        encoded.clear()
        with pytest.raises(InputTooLong):
            await r.hub.submit(r.request("a" + " " * 1_000_000))
        assert encoded == []
        check_bytes([ChatMessage("user", "a" + " " * 2 * PIECE)], r.hub.prompting._tokenizer, 200)
