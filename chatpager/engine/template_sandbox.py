"""Chat templates in Jinja's immutable sandbox, with the names that models' templates count on, and bounded in what they
take (``template_budget``): in loops and calls by steps and a deadline, in what they make and write by its size."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from chatpager.engine import template_budget as bounds
from chatpager.engine.template_budget import BUDGET, Budget, TooMuch, budget

MAX_TEMPLATE = 1 << 20
"""Characters."""
MAX_INDENT = 16
A_CALL = 4
"""Steps: as many rounds of a loop take as long."""
UNBOUNDED_METHODS = {"expandtabs", "translate", "to_bytes", "from_bytes"}
"""Of texts and numbers: no template is known that needs them."""
UNBOUNDED_FILTERS = {"urlize", "xmlattr", "pprint", "wordwrap"}


class ChatSandbox:
    """One template, compiled.

    Raises:
        jinja2.TemplateError: it is none.
        TooMuch: it is too long.
    """

    def __init__(self, template: str) -> None:
        if len(template) > MAX_TEMPLATE:
            raise TooMuch(f"it has more than {MAX_TEMPLATE} characters")
        self._template = _ENVIRONMENT.from_string(template)

    def render(self, messages: Sequence[Mapping[str, Any]], **given: Any) -> str:
        """The text of ``messages`` and whatever else the template is ``given``, by its name there.

        Raises:
            TooMuch: it takes more time or room than it may.
            Exception: anything, for a template is a program.
        """
        most = 1 << 62
        token = BUDGET.set(Budget(bounds.size([messages, given], most)))
        try:
            return "".join(self._template.generate(messages=messages, **given))
        finally:
            BUDGET.reset(token)


class _Bounded(NodeTransformer):
    """Puts a filter around whatever is written, gone through or made of several."""

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [_filtered(one, "(told)") for one in node.nodes]
        return node

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "(each)")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes).set_lineno(node.lineno), "(joined)")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, "(sized)") if node.ctx == "load" else node

    def _made(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return _filtered(node, "(sized)")

    visit_List = visit_Dict = _made


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    made = nodes.Filter(node, name, [], [], None, None)
    made.set_lineno(node.lineno)
    return made


class _Generation(Extension):
    """``{% generation %}`` marks what a model says, for training; here it is what is in it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        made = {"+": bounds.added, "*": bounds.multiplied, "**": bounds.power, "%": bounds.remainder}
        self.binop_table |= made
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _dict,
            "namespace": _Namespace,
        }
        self.filters["tojson"] = _tojson
        for name in UNBOUNDED_FILTERS:
            del self.filters[name]
        self.filters |= {name: _bounded_filter(name, filter) for name, filter in self.filters.items()}
        ours = {"(told)": _told, "(each)": bounds.each, "(joined)": bounds.joined, "(sized)": bounds.sized}
        self.filters |= ours

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed: nodes.Template = _Bounded().visit(super()._parse(source, name, filename))
        parsed.set_environment(self)
        return parsed

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        unbounded = isinstance(obj, str | bytes | int) and attr in UNBOUNDED_METHODS
        return not unbounded and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """What a template calls, by whatever name: its arguments may have any."""
        budget().step(A_CALL)
        bounds.check_numbers([*args, *kwargs.values()])
        method = getattr(__obj, "__wrapped__", __obj)
        text = getattr(method, "__self__", None)
        if isinstance(text, str | bytes):
            args = _checked_arguments(method.__name__, text, args, kwargs)
        return bounds.sized(super().call(__context, __obj, *args, **kwargs))


def _checked_arguments(
    method: str, text: str | bytes, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Of a text's method whose result may be much longer than the text."""
    match method:
        case "format" | "format_map":
            bounds.check_format(text, [args, kwargs])
        case "replace" if len(args) > 1:
            bounds.check_replaced(text, *args[:2])
        case "join" if args:
            return (bounds.check_joined(text, args[0]), *args[1:])
    return args


def _bounded_filter(name: str, filter: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's, which may be given its context or environment before its value."""
    before = 1 if hasattr(filter, "jinja_pass_arg") else 0

    @functools.wraps(filter)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        budget().step()
        bounds.check_numbers([*args[before + 1 :], *kwargs.values()])
        first, value, rest = args[:before], args[before], args[before + 1 :]
        return bounds.sized(filter(*first, _checked_value(name, value, rest, kwargs), *rest, **kwargs))

    return bounded


def _checked_value(name: str, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a filter whose result may be much longer than its value is used on."""
    match name:
        case "format":
            bounds.check_format(str(value), [args, kwargs])
        case "replace":
            old, new = [*args, *kwargs.values(), "", ""][:2]
            bounds.check_replaced(str(value), str(kwargs.get("old", old)), str(kwargs.get("new", new)))
        case "indent":
            bounds.check_indented(str(value), kwargs.get("width", args[0] if args else 4))
        case "join":
            return bounds.check_joined(str(kwargs.get("d", args[0] if args else "")), value)
        case "sum" if not isinstance(kwargs.get("start", args[1] if len(args) > 1 else 0), int | float):
            raise TooMuch("sum adds numbers")
    return value


@pass_context
def _told(context: Context, value: Any) -> str:
    """What is written. With a context it is not made when the template is compiled, so constants count as well."""
    return budget().tell(str(value))


def _raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format[:100])


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Python writes it: Jinja's own is for HTML."""
    wide = len(indent) if isinstance(indent, str) else max(0, indent or 0)
    if wide > MAX_INDENT or any(len(one) > MAX_INDENT for one in separators or ()):
        raise TooMuch("JSON is written too wide")
    bounds.check_json(value, wide, sum(len(one) for one in separators or ()))
    parts = None if separators is None else (separators[0], separators[1])
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=parts, sort_keys=sort_keys)


class _Namespace(Namespace):
    """Whose names are none of Python's inside."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        """Without a name for itself, which an argument may have."""
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no name that begins with _, such as {name!r}")


_ENVIRONMENT = _Environment()
