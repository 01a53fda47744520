"""An answer stands behind what asked for it, whatever else a template puts before answers."""

import pytest

from chatpager.engine.chat_template import ChatMessage, ChatTemplate
from chatpager.engine.tokenizer import Tokenizer
from chatpager.engine.tool_calls import FunctionCall, Tool
from tests.chat_models import (
    CHATML,
    HARMONY,
    HARMONY_TOKENS,
    MISTRAL,
    MISTRAL_APART,
    MISTRAL_TOKENS,
    TOOLS_CHATML,
    save_tokenizer,
    thinking,
)

USER, AGAIN = ChatMessage("user", "Hello"), ChatMessage("user", "And then?")
SEARCH = Tool("search")
LAST_THINKS_OF_NOTHING = CHATML.replace(
    "{{ m['content'] }}",
    "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}",
)
"""As Qwen 3's template does."""
TEMPLATES = {
    "plain": (CHATML, ()),
    "strips": (thinking(TOOLS_CHATML), ()),
    "opens": (thinking(TOOLS_CHATML, opens=True), ()),
    "last": (LAST_THINKS_OF_NOTHING, ()),
    "mistral": (MISTRAL, MISTRAL_TOKENS),
    "mistral, later": (MISTRAL_APART, MISTRAL_TOKENS),
    "gpt-oss": (HARMONY, HARMONY_TOKENS),
}


def template_of(folder, name):
    template, special = TEMPLATES[name]
    return ChatTemplate(Tokenizer(save_tokenizer(folder, template, special=special)))


def answer(template, text="Well.\n\nYes", **more):
    """One whose ids its text would not give."""
    ids = [i for letter in text for i in template._tokenizer.encode_plain(letter)]
    return ChatMessage("assistant", text, ids, generated=lambda: text, **more)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("asks", [True, False])
def test_the_next_prompt_extends_what_was_generated(tmp_path, name, asks):
    template = template_of(tmp_path, name)
    said = answer(template)
    first = template.prompt([USER]).token_ids
    then = template.prompt([USER, said, AGAIN] if asks else [USER, said], asks=asks)
    assert then.token_ids[: len(first) + len(said.token_ids)] == [*first, *said.token_ids]
    assert len(then.token_ids) > len(first) + len(said.token_ids)
    twice = template.prompt([USER, said, AGAIN, said, USER]).token_ids
    if asks:
        assert twice[: len(then.token_ids)] == then.token_ids


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in ("plain", "last")])
def test_so_does_the_prompt_behind_a_call(tmp_path, name):
    template = template_of(tmp_path, name)
    called = answer(template, "raw ids", calls=[FunctionCall("search", "{}", "call_1")])
    result = ChatMessage("tool", "Rain.", name="search", call_id="call_1")
    first = template.prompt([USER], tools=[SEARCH]).token_ids
    then = template.prompt([USER, called, result], tools=[SEARCH]).token_ids
    assert then[: len(first) + len(called.token_ids)] == [*first, *called.token_ids]
    assert "Rain." in template._tokenizer.decode(then)
    cut = template.prompt([USER, called, AGAIN], tools=[SEARCH]).token_ids
    assert cut[: len(first) + len(called.token_ids)] == [*first, *called.token_ids]


@pytest.mark.parametrize("name", TEMPLATES)
def test_which_prompts_open_the_thoughts(tmp_path, name):
    template = template_of(tmp_path, name)
    assert template.prompt([USER]).opens_thought == (name == "opens")
    assert not template.prompt([USER], asks=False).opens_thought
    assert not template.prompt([ChatMessage("user", "<think>")], asks=False).opens_thought
