"""What a hostile chat template may try: it reaches nothing but what it is given, and changes nothing of that."""

import pytest

from chatpager.engine.chat_template import ChatMessage, ChatTemplate
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import InvalidRequest, ModelLoadError
from tests.chat_models import save_tokenizer

REACHES = [
    # Python's inside, by attributes, by items, by filters, and by names that are put together
    "''.__class__", "''['__class__']", "''|attr('__class__')", "''.__class__.__mro__[1].__subclasses__()",
    "().__class__.__base__.__subclasses__()", "[].__class__.__base__", "{}.__class__.__bases__[0]",
    "messages.__class__.__mro__", "messages[0].__class__", "messages|map(attribute='__class__')|list|first",
    "''|attr('__cl' ~ 'ass__')", "''|attr(['__cl','ass__']|join)", "''['__cl' ~ 'ass__']", "''|attr('\\x5f_class__')",
    "''['\\x5f\\x5fclass\\x5f\\x5f']", "(''|attr)('__class__')", "''|attr('%s%s' % ('__cl', 'ass__'))",
    "''|attr('__ssalc__'|reverse)", "''|attr('__CLASS__'|lower)", "1|attr('__class__')", "none.__class__",
    "true.__class__.__bases__", "(1).real.__class__", "messages[0].items.__class__",
    "messages[0].get.__self__.__class__",
    # what templates have of their own
    "self.__init__.__globals__", "self._TemplateReference__context", "self.__dict__", "cycler.__init__.__globals__",
    "cycler.__init__.__globals__.os.popen('id').read()", "joiner.__init__.__globals__['__builtins__']",
    "namespace.__init__.__globals__", "lipsum.__globals__", "lipsum.__globals__.os", "lipsum|attr('__globals__')",
    "range.__self__", "range.__globals__", "dict.__base__", "dict.mro()", "dict.__subclasses__()",
    "raise_exception.__globals__", "raise_exception.__code__", "raise_exception.__closure__",
    "strftime_now.__globals__", "strftime_now.__globals__.sys.modules", "strftime_now.__code__.co_consts",
    "loop.__init__.__globals__", "caller.__globals__", "varargs.__class__", "undefined_name.__class__",
    "undefined_name.__init__.__globals__", "(undefined_name|default(''))['__class__']",
    # by formatting
    "'{0.__class__}'.format('')", "'{0.__class__.__mro__}'.format(messages)", "'{x.__class__}'.format(x='')",
    "'{0[__class__]}'.format(messages)", "'{x.__class__}'.format_map({'x': ''})",
    "('{0.__class__}'|attr('format'))('')", "'{0.__globals__}'.format(raise_exception)",
    "(['{0.__class__}']|map(attribute='format')|first)('')", "'%(x)s'|format(x=''.__class__)",
    # changing what it is given
    "messages.append(1)", "messages.clear()", "messages[0].update({'content': ''})", "messages[0].pop('content')",
    "messages[0].setdefault('x', 1)", "messages|attr('append')(1)", "(messages|attr('clear'))()",
    "messages.extend([1])", "messages.sort()", "messages['insert'](0, 1)",
]  # fmt: skip
FILES = [
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}{{ os }}", "{% from 'os' import popen %}{{ popen }}",
    "{% extends '/etc/passwd' %}", "{% include ['a', '/etc/hostname'] %}", "{% include '../config.json' %}",
    "{% set x = [].__class__ %}{{ x }}", "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{% macro m() %}{{ m.__globals__ }}{% endmacro %}{{ m() }}{{ m.__class__ }}", "{% do messages.append(1) %}",
    "{% set messages[0].content = 'x' %}", "{% block x %}{{ self.x.__globals__ }}{% endblock %}",
    "{% call raise_exception.__globals__.os.popen('id') %}{% endcall %}", "{% autoescape true %}{{ ''.__class__ }}",
    "{% filter attr('__class__') %}x{% endfilter %}", "{% debug %}",
]  # fmt: skip
SECRETS = ("class", "module", "<function", "<code", "uid=", "builtin", "root:", "environ", "jinja2", "transformers")
"""Of which something stands in what an attack that comes through would write."""


def written(folder, attack):
    """What the model is shown of "hello" where the template tries ``attack`` first; None if it is refused."""
    tokenizer = Tokenizer(save_tokenizer(folder, attack + "{% for m in messages %}{{ m.content }};{% endfor %}"))
    try:
        return tokenizer.decode(ChatTemplate(tokenizer).prompt([ChatMessage("user", "hello")]).token_ids)
    except (ModelLoadError, InvalidRequest):
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("model")


@pytest.mark.parametrize("attack", [*("{{ " + reach + " }}" for reach in REACHES), *FILES])
def test_it_is_refused_or_comes_to_nothing(folder, attack):
    text = written(folder, attack)
    if text is not None:
        assert text.endswith("hello;"), "it changed what it was given"
        assert not any(secret in text.lower() for secret in SECRETS), text


def test_these_would_be_seen_where_nothing_is_kept_from_a_template():
    """In jinja's own environment hardly any of them is refused."""
    import jinja2

    through, harmless = 0, [reach for reach in REACHES if "popen" not in reach]
    for reach in harmless:
        try:
            template = jinja2.Environment(extensions=["jinja2.ext.do"]).from_string("{{ " + reach + " }}")
            given = {"messages": [{"content": "hello"}], "raise_exception": written, "strftime_now": written}
            text = template.render(**given)
        except Exception:
            continue
        through += given["messages"] != [{"content": "hello"}] or any(secret in text.lower() for secret in SECRETS)
    assert through > 0.8 * len(harmless), through


def test_a_template_that_tries_nothing(folder):
    assert written(folder, "x") == "xhello;"


def test_there_are_sixty():
    assert len({*REACHES, *FILES}) >= 60
