import tracemalloc

from chatpager.engine.remembered_pieces import RememberedPieces
from chatpager.engine.tokenizer import Tokenizer


def test_a_piece_is_encoded_once(chat_model):
    tokenizer = Tokenizer(chat_model)
    first = tokenizer.encode_rendered("the quick brown fox")
    assert tokenizer.encode_rendered("the quick brown fox") is first
    assert list(first) == tokenizer.encode("the quick brown fox")


def test_what_one_tenant_wrote_is_encoded_again_for_another(chat_model):
    tokenizer = Tokenizer(chat_model)
    ann, bob = tokenizer.apart("ann"), tokenizer.apart("bob")
    first = ann.encode_rendered("the quick brown fox")
    assert bob.encode_rendered("the quick brown fox") is not first
    assert tokenizer.encode_rendered("the quick brown fox") is not first
    assert tokenizer.apart("ann").encode_rendered("the quick brown fox") is first
    assert list(bob.encode_rendered("the quick brown fox")) == list(first)


def test_a_tokenizer_remembers_no_more_than_its_budget(chat_model):
    tokenizer = Tokenizer(chat_model)
    tokenizer._pieces = RememberedPieces(100_000)
    for i in range(40):
        tokenizer.encode_rendered(f"{i} " + "the quick brown fox " * i * 20)
    assert 50_000 < tokenizer._pieces.held <= 100_000


def test_they_hold_no_more_than_their_budget_and_the_stalest_go_first():
    pieces = RememberedPieces(10_000)
    for i in range(200):
        pieces.put(f"{i} " + "x" * 100, range(100))
        assert pieces.get("0 " + "x" * 100) is not None
        assert pieces.held <= 10_000
    assert pieces.get("1 " + "x" * 100) is None
    assert pieces.get("199 " + "x" * 100).tolist() == list(range(100))


def test_what_they_say_they_hold_is_what_they_take():
    """Most pieces of a chat are short, so what an entry takes besides its text and its ids counts."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        pieces = RememberedPieces(2_000_000)
        for i in range(6000):
            pieces.put(f"{i} " + "é你"[i % 2] * (i % 300), range(i % 200))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 1_900_000 < pieces.held <= 2_000_000
    assert 0.8 < taken / pieces.held < 1.2


def test_a_piece_that_would_push_out_most_others_is_not_kept():
    pieces = RememberedPieces(10_000)
    pieces.put("a", range(10))
    assert pieces.put("b" * 2000, range(500)).tolist() == list(range(500))
    assert pieces.get("b" * 2000) is None
    assert pieces.get("a") is not None


def test_a_piece_put_twice_counts_once():
    pieces = RememberedPieces(10_000)
    pieces.put("a", range(10))
    held = pieces.held
    pieces.put("a", range(10))
    assert pieces.held == held
