"""Where agents' instructions stand, whatever the conversation becomes."""

from chatpager.client.integrations.layout import lay_out


class Conversation:
    """Items as text; an instruction is made in brackets."""

    def __init__(self, placement="append"):
        self.items, self.known, self.placement = [], {}, placement

    def ask(self, own, items=None):
        items = self.items if items is None else items
        found, new = lay_out(items, items, own, self.known, self.placement, lambda text: f"[{text}]")
        if new:
            self.known[new.mark] = new.text
        return found


def test_each_prompt_begins_with_the_one_before():
    talk, before = Conversation(), ["go"]
    talk.items.append("go")
    for own, said in (("writer", "a story"), ("critic", "too long"), ("editor", "cut it"), ("writer", "shorter")):
        prompt = talk.ask(own)
        assert prompt[: len(before)] == before and prompt[-1] == f"[{own}]"
        talk.items.append(said)
        before = [*prompt, said]
    assert before == ["go", "[writer]", "a story", "[critic]", "too long", "[editor]", "cut it", "[writer]", "shorter"]


def test_an_agent_that_goes_on_is_not_told_again():
    talk = Conversation()
    talk.items.append("hello")
    for said in ("calls a tool", "the tool's result", "the answer", "the next question"):
        assert talk.ask("writer").count("[writer]") == 1
        talk.items.append(said)


def test_at_the_tail_nothing_stays():
    talk = Conversation("tail")
    talk.items.append("hello")
    assert (talk.ask("writer"), talk.ask("critic")) == (["hello", "[writer]"], ["hello", "[critic]"])


def test_an_agent_inside_another_one_disturbs_nothing():
    talk = Conversation()
    talk.items += ["question", "calls the other agent"]
    outer = talk.ask("writer")
    assert talk.ask("helper", ["the other agent's question"]) == ["the other agent's question", "[helper]"]
    talk.items.append("its answer")
    assert talk.ask("writer") == [*outer, "its answer"]


def test_agents_that_begin_with_the_same_words_are_not_told_each_other_s():
    talk = Conversation()
    for own in ("french", "german", "french"):
        assert talk.ask(own, ["hello"]) == ["hello", f"[{own}]"]
    assert talk.ask("german", []) == ["[german]"]
    assert talk.ask("french", ["hello", "salut"]) == ["hello", "[french]", "salut"]


def test_a_past_that_was_changed_is_told_anew():
    talk = Conversation()
    talk.items += ["hello", "there"]
    talk.ask("writer")
    assert talk.ask("writer", ["hello", "you", "there"]) == ["hello", "you", "there", "[writer]"]


def test_without_an_instruction_nothing_is_placed():
    talk = Conversation()
    talk.items.append("hello")
    assert talk.ask("") == ["hello"]
