from chatpager.sessions.remembered import Remembered


def test_the_ids_unused_for_longest_are_forgotten_first():
    memory = Remembered(10)
    memory.put("a", [1, 2, 3, 4])
    memory.put("b", [5, 6, 7, 8])
    assert list(memory.get("a").ids) == [1, 2, 3, 4]
    memory.put("c", [9, 9, 9])
    assert memory.get("b") is None
    assert list(memory.get("a").ids) == [1, 2, 3, 4]
    assert list(memory.get("c").ids) == [9, 9, 9]


def test_the_same_message_again_counts_once():
    memory = Remembered(10)
    for _ in range(5):
        memory.put("a", [1, 2, 3, 4])
    memory.put("b", [5, 6, 7, 8, 9, 10])
    assert memory.get("a") is not None


def test_the_prefix_that_it_began_with_is_remembered_too():
    memory = Remembered(10)
    memory.put("a", [1], "support")
    assert memory.get("a").published == "support"
    memory.put("a", [1])
    assert memory.get("a").published is None


def test_what_does_not_fit_is_not_kept():
    memory = Remembered(3)
    memory.put("a", [1, 2, 3, 4])
    assert memory.get("a") is None
    assert memory._held == 0


def test_no_message_has_no_ids():
    assert Remembered(3).get(None) is None


def test_messages_without_ids_are_counted_too():
    memory = Remembered(10, entries=3)
    for tip in "abcd":
        memory.put(tip, [])
    assert memory.get("a") is None
    assert memory.get("b") is not None
    assert len(memory._past) == 3
