"""The sandbox of chat templates: what transformers makes of a template it makes too, and a template that takes too much
of anything is stopped before it has it."""

import resource
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError, UndefinedError
from transformers.utils.chat_template_utils import render_jinja_template

from chatpager.demo import model_path
from chatpager.engine import template_budget
from chatpager.engine.chat_template import ChatMessage, ChatTemplate
from chatpager.engine.template_budget import BASE_SIZE, SECONDS, Budget, TooMuch
from chatpager.engine.template_sandbox import MAX_TEMPLATE, ChatSandbox
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import InvalidRequest, ModelLoadError
from tests import chat_models
from tests.chat_models import save_tokenizer
from tests.processes import ROOT

MODELS = {name: text for name, text in vars(chat_models).items() if isinstance(text, str) and "{% for m in" in text}
MODELS["demo"] = (model_path() / "chat_template.jinja").read_text()
WAYS = {
    "loops": "{% for m in messages %}{{ loop.index }}{{ loop.length }}{{ loop.last }}{{ loop.revindex }}"
    "{{ loop.previtem.role if loop.previtem }}{{ loop.cycle('a', 'b') }}{% else %}none{% endfor %}",
    "filtered": "{% for m in messages if m.role == 'user' %}{{ loop.length }}{% break %}{% endfor %}",
    "recursive": "{% for x in [[1, [2]], 3] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "pairs": "{% for k, v in messages[0].items() %}{{ k ~ '=' ~ v }}{% endfor %}{% set a, b = (1, 2) %}{{ a, b }}",
    "macros": "{% macro f(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ f(1) }}"
    "{% call f([1]) %}x{% endcall %}",
    "blocks": "{% set x %}a{{ messages | length }}{% endset %}{% set y | upper %}b{% endset %}{{ x ~ y }}"
    "{% filter trim %} c {% endfilter %}{% with z = 3 %}{{ z }}{% endwith %}",
    "spaces": "  {%- if true -%} x {%- endif %}\n   {% if true %}\n   y\n   {% endif %}\n{{ ' z ' | trim }}",
    "values": "{{ none }}{{ true }}{{ unknown }}{{ unknown is defined }}{{ 1.50 }}{{ [1, 'a'] }}{{ {'a': none} }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }}{{ [3, 1] | sort | first }}{{ 'a' | default('b') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 'a-b' | replace('-', '+') }}"
    "{{ ['a', 'b'] | join }}{{ 'a\nb' | indent(2, true) }}{{ [1, 2] | sum }}{{ '%s:%d' | format('a', 2) }}",
    "json": "{{ {'b': '\u00e9<&>', 'a': [1]} | tojson }}{{ messages | tojson(indent=2) }}"
    "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}",
    "methods": "{{ 'a,b'.split(',') }}{{ ' x '.strip() }}{{ 'x'.join(['1', '2']) }}{{ 'ab'.replace('a', 'c') }}"
    "{{ '{}-{:>3}'.format('a', 1) }}{{ 'x'.center(5) }}{{ 'ab'.startswith('a') }}{{ dict(a=1).get('a') }}",
    "sums": "{{ 'a' + 'b' }}{{ [1] + [2] }}{{ 'ab' * 2 }}{{ 2 * 3 }}{{ 2 ** 10 }}{{ '%s' % 'a' }}{{ 7 % 4 }}",
    "names": "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.s = ns.s ~ m.role[0] %}{% endfor %}{{ ns.n }}{{ ns.s }}",
    "training": "a{% generation %}b{{ messages | length }}{% endgeneration %}c",
    "slices": "{{ messages[::-1][0].role }}{{ messages[1:] | length }}{{ 'abc'[-1] }}{{ range(5)[1:3] | list }}",
}


def of_transformers(template, messages, tools, asks):
    given = {"bos_token": "<s>", "eos_token": "</s>"}
    [text], _ = render_jinja_template([messages], tools, None, template, add_generation_prompt=asks, **given)
    return text


def of_ours(template, messages, tools, asks):
    given = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatSandbox(template).render(messages, tools=tools, documents=None, add_generation_prompt=asks, **given)


def said(render, *arguments):
    """What comes of it, or why not."""
    try:
        return render(*arguments)
    except Exception as error:
        return type(error).__name__, str(error)


CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "f", "arguments": {"a": ["\u4f60", None, 1.5]}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": st.text(max_size=20)},
        optional={"tool_calls": st.just([CALL]), "name": st.just("f"), "tool_call_id": st.just("abcdefghi")},
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.no_cover  # other tests cover the same, and each of hundreds of examples takes twice as long
@pytest.mark.parametrize("name", [*MODELS, *WAYS])
def test_what_transformers_makes_of_a_template_is_made_here(name):
    template = (MODELS | WAYS)[name]
    seen = set()

    @given(messages, st.sampled_from([None, [TOOL]]), st.booleans())
    def compare(messages, tools, asks):
        theirs = said(of_transformers, template, messages, tools, asks)
        assert said(of_ours, template, messages, tools, asks) == theirs
        seen.add(type(theirs))

    compare()
    assert str in seen, "nothing was rendered"


# -- what takes too much ----------------------------------------------------------------------------------------------

HUGE = "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = DOUBLED %}{% endfor %}"
TIMES = "{% for i in range(100000) %}"
END = "{% endfor %}"
BOMBS = {
    "written": TIMES * 2 + "x" + END * 2,
    "written in a block": "{% set x %}" + TIMES + "x" * 1000 + END + "{% endset %}",
    "written by a macro": "{% macro f() %}" + TIMES + "x" * 1000 + END + "{% endmacro %}{% set x = f() %}",
    "rounds that do nothing": TIMES * 4 + END * 4,
    "calls without end": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(100) }}",
    "tails": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "doubled": HUGE.replace("DOUBLED", "ns.x + ns.x"),
    "doubled by ~": HUGE.replace("DOUBLED", "ns.x ~ ns.x ~ ns.x"),
    "doubled in a list": HUGE.replace("DOUBLED", "[ns.x, ns.x]"),
    "doubled in an object": HUGE.replace("DOUBLED", "{'a': ns.x, 'b': ns.x}"),
    "doubled by dict": HUGE.replace("DOUBLED", "dict(a=ns.x, b=ns.x)"),
    "doubled in a pair": HUGE.replace("DOUBLED", "(ns.x, ns.x)"),
    "doubled by a format": HUGE.replace("DOUBLED", "'%s%s' % (ns.x, ns.x)"),
    "doubled by a method": HUGE.replace("DOUBLED", "'{0}{0}'.format(ns.x)"),
    "doubled by a filter": HUGE.replace("DOUBLED", "'%s%s' | format(ns.x, ns.x)"),
    "doubled by join": HUGE.replace("DOUBLED", "[ns.x, ns.x] | join"),
    "joined by itself": HUGE.replace("DOUBLED", "('x' * 999) | join(ns.x)"),
    "replaced": HUGE.replace("DOUBLED", "ns.x.replace('x', 'xxx')"),
    "replaced by a filter": HUGE.replace("DOUBLED", "ns.x | replace('x', 'xxx')"),
    "indented": "{% set x = '\\n' * 900000 %}{{ x | indent(900000) }}",
    "lists": "{{ [[1] * 90000] * 90000 }}",
    "sorted": "{{ ([[1] * 9] * 100000) | sum(start=[]) }}",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "a factor": HUGE.replace("'x'", "9").replace("DOUBLED", "ns.x * ns.x"),
    "times": "{{ 'x' * 1000000000 }}",
    "times, the other way": "{{ 1000000000 * [1] }}",
    "range": "{{ range(1000000000) | list }}",
    "wide": "{{ '%1000000000d' % 1 }}",
    "wide by an argument": "{{ '%*d' % (1000000000, 1) }}",
    "wide by a method": "{{ '{:1000000000}'.format(1) }}",
    "wide by another": "{{ '{:{}}'.format(1, '1000000000') }}",
    "wide by a filter": "{{ '%1000000000d' | format(1) }}",
    "wide, not called by name": "{{ (['{:1000000000}'] | map(attribute='format') | first)(1) }}",
    "centred": "{{ 'x' | center(1000000000) }}",
    "justified": "{{ 'x'.ljust(1000000000) }}",
    "filled": "{{ 'x'.zfill(1000000000) }}",
    "tabs": "{{ ('\t' * 400000).expandtabs(400000) }}",
    "bytes": "{{ (1).to_bytes(1000000, 'big') }}",
    "translated": "{{ ('x' * 400000).translate({120: 'x' * 400000}) }}",
    "batches": "{{ [1] | batch(1000000000, 0) | list }}",
    "JSON": "{{ ([[1] * 9] * 9) | tojson(indent=100000000) }}",
    "deep JSON": "{% set ns = namespace(x=1) %}{% for i in range(100) %}{% set ns.x = [ns.x] %}{% endfor %}"
    "{{ ([ns.x] * 5000) | tojson(indent=16) }}",
    "text of nobody's": "{{ lipsum(1000000) }}",
    "a long one": "x" * (MAX_TEMPLATE + 1),
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a constant": "{{ 'x' | center(1000000000) | length }}",
}
OTHERWISE = {
    "tails": RecursionError, "deep": RecursionError, "text of nobody's": UndefinedError,
    "tabs": SecurityError, "bytes": SecurityError, "translated": SecurityError,
}  # fmt: skip
"""Stopped by Python or Jinja itself."""


def peak():
    """Kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_takes_too_much_is_stopped(name):
    """Within a few times its budget of memory: the largest is a process of its own."""
    before, began = peak(), time.process_time()
    with pytest.raises(OTHERWISE.get(name, TooMuch)):
        ChatSandbox(BOMBS[name]).render([{"role": "user", "content": "hello"}])
    assert time.process_time() - began < SECONDS
    assert peak() - before < 256 << 10


def test_all_of_them_live_in_little_memory():
    """Of what is not bounded there is not enough in it."""
    code = (
        "import resource; from tests.engine.test_template_sandbox import BOMBS, ChatSandbox\n"
        "grown = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (512 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (grown, grown))\n"
        "for name, bomb in BOMBS.items():\n"
        "    try: ChatSandbox(bomb).render([{'role': 'user', 'content': 'hello'}])\n"
        "    except MemoryError: raise SystemExit(name)\n"
        "    except Exception: continue\n"
        "    raise SystemExit(name)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_may_make_more_of_more(monkeypatch):
    """Whoever sends a long conversation gets it rendered."""
    twice = ChatSandbox("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}")
    content = "x" * BASE_SIZE
    assert len(twice.render([{"role": "user", "content": content}] * 3)) == 6 * BASE_SIZE
    many = [{"role": "user", "content": "hi"}] * 20_000
    loops = ChatSandbox("{% for m in messages %}{{ loop.index0 }}{{ m.content | trim }}{% endfor %}")
    assert loops.render(many).startswith("0hi1hi2hi")


def test_a_deadline_comes_between_steps():
    now = 0.0
    budget = Budget(0, clock=lambda: now)
    budget.step()
    now = SECONDS + 1
    with pytest.raises(TooMuch, match="longer than"):
        budget.step()


@pytest.mark.parametrize("bomb", ["written", "rounds that do nothing", "wide"])
def test_that_turn_is_refused_and_the_next_is_rendered(tmp_path, bomb):
    """At load where it always does, and else by the message that does it."""
    hidden = "{% if messages[-1].content == 'boom' %}" + BOMBS[bomb] + "{% endif %}{{ messages[-1].content }}"
    template = ChatTemplate(Tokenizer(save_tokenizer(tmp_path, hidden)))
    with pytest.raises(InvalidRequest, match="takes too much") as refused:
        template.prompt([ChatMessage("user", "boom")])
    assert refused.value.param == "messages"
    assert template.prompt([ChatMessage("user", "hello")]).token_ids
    with pytest.raises(ModelLoadError, match="takes too much"):
        ChatTemplate(Tokenizer(save_tokenizer(tmp_path, BOMBS[bomb])))


def test_a_size_counts_what_is_held_as_often_as_it_is_held():
    assert template_budget.size("abc", 99) == 4
    pair = ["ab", "ab"]
    assert template_budget.size({"k": [pair, pair]}, 99) == 1 + 2 + 1 + 2 * (1 + 2 * 3)
    for _ in range(64):
        pair = [pair, pair]
    assert template_budget.size(pair, 99) > 99
