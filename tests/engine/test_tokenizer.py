import json
import re
import shutil
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatpager.engine.chat_template import ChatMessage, ChatTemplate
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import InvalidRequest, ModelLoadError
from tests.chat_models import save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(chat_model):
    return Tokenizer(chat_model)


@pytest.fixture
def with_template(tmp_path):
    def make(template):
        return ChatTemplate(Tokenizer(save_tokenizer(tmp_path, template)))

    return make


TWO_OF_ONE_ID = {
    "vocab": {"a": 0, "b": 0, "c": 1, "d": 2, "ac": 3, "bd": 4},
    "merges": [["a", "c"], ["b", "d"]],
}
"""A vocabulary that tokenizers reads once: written out again, neither "ad" nor "bc" is in it."""


class TestIds:
    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=40))
    def test_plain_text_comes_back(self, tokenizer, text):
        assert tokenizer.decode(tokenizer.encode_plain(text)) == text

    def test_special_tokens_are_special_only_where_the_template_writes_them(self, tokenizer):
        assert len(tokenizer.encode("<|im_end|>")) == 1
        assert len(tokenizer.encode_plain("<|im_end|>")) > 1
        assert tokenizer.decode(tokenizer.encode_plain("<|im_end|>")) == "<|im_end|>"

    def test_others_have_their_turn_while_a_long_text_becomes_ids(self, tokenizer):
        text, gate, came = "the quick brown fox " * 1000, threading.Lock(), threading.Event()
        ways = [tokenizer.encode, tokenizer.encode_plain, lambda text: tokenizer.encode_rendered(f"{text}<|im_end|>")]
        usual = sys.getswitchinterval()
        for encode in ways:
            came.clear()
            gate.acquire()
            other = threading.Thread(target=lambda: (gate.acquire(), came.set()))
            other.start()
            sys.setswitchinterval(60)  # then nobody takes the interpreter: it is given up
            try:
                gate.release()
                tries = next((tries for tries in range(100) if encode(f"{text}{tries}") and came.is_set()), None)
            finally:
                sys.setswitchinterval(usual)
            other.join()
            gate.release()
            assert tries is not None

    def test_a_bare_prompt_begins_as_the_tokenizer_has_it_and_is_plain(self, tokenizer, tmp_path):
        assert tokenizer.encode_prompt("<|im_end|> the") == tokenizer.encode_plain("<|im_end|> the")
        file = save_tokenizer(tmp_path) / "tokenizer.json"
        whole = json.loads(file.read_text())
        bos = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
        whole["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}, bos],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        }
        file.write_text(json.dumps(whole))
        begins = Tokenizer(tmp_path)
        assert begins.encode("a", add_special_tokens=True) == [0, *begins.encode("a"), 0]
        assert begins.encode_prompt("<|im_end|> the") == [0, *begins.encode_plain("<|im_end|> the")]
        assert begins.encode_prompt("") == [0]

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<|", "a", "\n", "\ufdd0", "1\ufdd1", "\ufdd2"])))
    def test_a_user_cannot_write_a_control_token(self, tokenizer, parts):
        control = {tokenizer.encode(t)[0] for t in ("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|pad|>")}
        text = "".join(parts)
        assert not control & set(tokenizer.encode_rendered(tokenizer.guard(text)))
        clean = "".join(c for c in text if not "\ufdd0" <= c <= "\ufdd3")
        assert tokenizer.decode(tokenizer.encode_rendered(tokenizer.guard(text))) == clean

    def test_a_folder_without_a_tokenizer_is_refused_with_the_reason(self, tmp_path):
        with pytest.raises(ModelLoadError, match="no usable tokenizer"):
            Tokenizer(tmp_path)

    @pytest.mark.parametrize(
        ("broken", "file", "words"),
        [
            ({"tokenizer.json": "{"}, "/tokenizer.json", "no usable tokenizer: "),
            ({"tokenizer.json": "[]"}, "/tokenizer.json", "no usable tokenizer: "),
            ({"tokenizer.json": "[" * 100_000}, "/tokenizer.json", "no usable tokenizer: "),
            ({"model": {"type": "Nope"}}, "/tokenizer.json", "ModelUntagged"),
            ({"model": {"vocab": 5}}, "/tokenizer.json", "expected a map"),
            ({"model": {"merges": [["zzzz", "qqqq"]]}}, "/tokenizer.json", "Token `zzzz` out of vocabulary"),
            ({"model": TWO_OF_ONE_ID}, "/tokenizer.json", "out of vocabulary"),
            ({"pre_tokenizer": {"type": "Nope"}}, "/tokenizer.json", "PreTokenizerUntagged"),
            ({"version": "9"}, "/tokenizer.json", "Unknown tokenizer version '9'"),
            ({"tokenizer_config.json": "[]"}, "/tokenizer_config.json", "not a JSON object"),
            ({"tokenizer_config.json": "{"}, "/tokenizer_config.json", "not readable as JSON"),
            ({"tokenizer_config.json": "[" * 100_000}, "/tokenizer_config.json", "not readable as JSON"),
            ({"tokenizer_config.json": '{"tokenizer_class": 5}'}, "", "no usable tokenizer: "),
            ({"special_tokens_map.json": "[]"}, "/special_tokens_map.json", "not a JSON object"),
        ],
        ids=lambda v: str(v)[:60] if isinstance(v, dict) else "",
    )
    def test_a_broken_tokenizer_is_refused_with_the_file_and_the_reason(self, tmp_path, broken, file, words):
        """``broken``: files with their new text, or parts of tokenizer.json with what is changed in them."""
        whole = json.loads((save_tokenizer(tmp_path) / "tokenizer.json").read_text())
        for name, value in broken.items():
            if name.endswith(".json"):
                (tmp_path / name).write_text(value)
            else:
                whole[name] = {**whole[name], **value} if isinstance(value, dict) else value
                (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
        with pytest.raises(ModelLoadError, match=re.escape(words)) as caught:
            Tokenizer(tmp_path)
        assert caught.value.path == f"{tmp_path}{file}"
        assert "\n" not in str(caught.value)

    def test_the_fingerprint_changes_with_vocabulary_and_template(self, tmp_path):
        a = Tokenizer(save_tokenizer(tmp_path / "a")).fingerprint
        b = Tokenizer(save_tokenizer(tmp_path / "b", "{{ messages }}")).fingerprint
        c = Tokenizer(save_tokenizer(tmp_path / "c", vocab=300)).fingerprint
        assert len({a, b, c}) == 3
        shutil.copytree(tmp_path / "a", tmp_path / "d")
        assert Tokenizer(tmp_path / "d").fingerprint == a


SYSTEM, USER, ANSWER = ChatMessage("system", "s"), ChatMessage("user", "u"), ChatMessage("assistant", "w", [50, 51])

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
SYSTEM_FIRST = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('first') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
STRIPS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1] | trim }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
FORGETS = "{% for m in messages if m.role == 'user' %}{{ m.content }}\n{% endfor %}"


class TestTemplate:
    def test_each_prompt_extends_the_one_before_and_its_answer(self, tokenizer):
        template = ChatTemplate(tokenizer)
        conversation, before = [SYSTEM], []
        for i in range(6):
            conversation.append(ChatMessage("user", f"question {i}"))
            prompt = template.prompt(conversation)
            assert prompt.form == "exact"
            assert prompt.token_ids[: len(before)] == before
            answer = [60 + i, 70, 80]
            before = [*prompt.token_ids, *answer]
            conversation.append(ChatMessage("assistant", tokenizer.decode(answer), answer))

    def test_an_answer_keeps_its_ids_though_its_text_would_tokenise_otherwise(self, tokenizer):
        letters = [i for c in "the" for i in tokenizer.encode_plain(c)]
        assert letters != tokenizer.encode_plain("the")
        ids = ChatTemplate(tokenizer).prompt([USER, ChatMessage("assistant", "the", letters), USER]).token_ids
        text = "".join(map(chr, ids))
        assert "".join(map(chr, letters)) in text

    def test_what_is_rendered_is_the_templates_own(self, tokenizer):
        messages = [SYSTEM, USER, ChatMessage("assistant", "plain"), USER]
        prompt = ChatTemplate(tokenizer).prompt(messages)
        own = tokenizer._hf.apply_chat_template(
            [{"role": m.role, "content": m.text} for m in messages], add_generation_prompt=True
        )["input_ids"]
        assert prompt.token_ids == own

    def test_a_template_without_system_messages_gets_the_users_words(self, with_template, tokenizer):
        template = with_template(NO_SYSTEM)
        assert not template.traits.system
        text = tokenizer.decode(template.prompt([SYSTEM, USER]).token_ids)
        assert text == "user\ns\nuser\nu\nassistant"

    def test_a_late_system_message_becomes_the_users_words(self, with_template, tokenizer):
        template = with_template(SYSTEM_FIRST)
        assert template.traits.system
        assert not template.traits.late_system
        text = tokenizer.decode(template.prompt([SYSTEM, USER, ANSWER, SYSTEM]).token_ids)
        assert text.startswith("system\ns\nuser\nu\n")
        assert text.endswith("user\ns\nassistant")

    def test_neighbours_of_one_role_are_joined_where_roles_alternate(self, with_template, tokenizer):
        template = with_template(ALTERNATE)
        assert not template.traits.same_role_twice
        text = tokenizer.decode(template.prompt([SYSTEM, USER, USER]).token_ids)
        assert text == "user\ns\n\nu\n\nu\nassistant"

    def test_a_template_that_rewrites_answers_is_overruled_and_said_so(self, with_template):
        template = with_template(STRIPS)
        assert not template.traits.keeps_answers
        thinking = ChatMessage("assistant", "<think>why</think> w", [90, 91, 92])
        prompt = template.prompt([USER, thinking, USER])
        assert prompt.form == "kept"
        assert [i for i in prompt.token_ids if i in (90, 91, 92)] == [90, 91, 92]
        assert template.prompt([USER, ANSWER, USER]).form == "exact"

    def test_a_template_that_leaves_no_place_is_rendered_from_text(self, with_template):
        prompt = with_template(FORGETS).prompt([USER, ANSWER, USER])
        assert prompt.form == "rewritten"
        assert 50 not in prompt.token_ids

    def test_a_developer_is_the_system(self, tokenizer):
        template = ChatTemplate(tokenizer)
        assert template.prompt([ChatMessage("developer", "s"), USER]) == template.prompt([SYSTEM, USER])

    def test_without_a_template_there_is_no_chat(self, with_template):
        with pytest.raises(InvalidRequest, match="no chat template"):
            with_template(None).prompt([USER])

    def test_what_a_template_refuses_even_then_is_the_clients_error(self, with_template):
        twice = "{% if messages | length > 1 %}{{ raise_exception('never') }}{% endif %}{{ messages[0].content }}"
        with pytest.raises(InvalidRequest, match="refuses these messages: never"):
            with_template(twice).prompt([USER, ANSWER, USER])

    @pytest.mark.parametrize("template", ["{{ messages", "{{ raise_exception('never') }}", "{{ 1 / 0 }}"])
    def test_a_template_that_renders_nothing_at_all_is_refused_at_load(self, with_template, template):
        with pytest.raises(ModelLoadError, match="chat template"):
            with_template(template)

    def test_a_template_runs_in_a_sandbox(self, with_template):
        for attack in (
            "{{ messages.__class__.__mro__ }}",
            "{{ messages.append(1) }}",
            "{{ cycler.__init__.__globals__ }}",
        ):
            with pytest.raises(ModelLoadError, match=r"unsafe|is not safe"):
                with_template(attack + "{{ messages[0].content }}")

    def test_conversation_text_is_data_to_the_template(self, tokenizer):
        prompt = ChatTemplate(tokenizer).prompt([ChatMessage("user", "{{ 7 * 7 }}{% raw %}")])
        assert "{{ 7 * 7 }}{% raw %}" in tokenizer.decode(prompt.token_ids)


def test_templates_are_json_safe(tmp_path):
    folder = save_tokenizer(tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert "auto_map" not in config
