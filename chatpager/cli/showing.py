"""A conversation in the terminal: what is thought and called is told apart from what is said, without colours too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from chatpager.cli.remote import one_line
from chatpager.client import events

CONTROLS = {i: "\N{REPLACEMENT CHARACTER}" for i in (*range(0x20), *range(0x7F, 0xA0)) if chr(i) not in "\n\t"}
SHOWN_RESULT = 200
"""Characters of what a tool gave."""


def visible(text: str) -> str:
    """``text`` without what a terminal obeys: C0, DEL and C1 controls, but for line ends and tabs."""
    return text.translate(CONTROLS)


class Showing:
    """One answer as it comes. What it says goes to ``answers``, what it thinks and calls to ``about``, which at a
    terminal are one console: then ``who`` stands before each of them. Without ``thoughts`` they are left out."""

    def __init__(self, answers: Console, about: Console, *, who: str, thoughts: bool) -> None:
        self._answers, self._about = answers, about
        self._who, self._thoughts = who, thoughts
        self._line: object = None
        """What the line that goes on is of."""
        self._console = answers
        """Where it is."""
        self._said = False

    def begin(self) -> None:
        if self._who:
            self._answers.print(Text(f"{self._who} ", "bold"), end="")

    def show(self, event: events.Event) -> None:
        match event:
            case events.Thought(text) if self._thoughts:
                if self._turn_to(events.Thought, self._about):
                    self._about.print(Text("thinks: ", "dim"), end="")
                self._about.print(Text(visible(text), "dim"), end="")
            case events.Text(text):
                self._said = True
                self._turn_to(events.Text, self._answers)
                self._answers.file.write(visible(text))  # printed it would have spaces for tabs
                self._answers.file.flush()
            case events.Call(call_id, name, arguments):
                self._turn_to(call_id, self._about)
                self._about.print(Text(call_line(name, arguments), "dim"), end="")

    def end(self) -> None:
        """Who reads only answers gets a line of each, though it be empty."""
        if self._line is not None:
            self._console.print()
        if not self._said and (self._line is None or self._answers is not self._about):
            self._answers.print()

    def _turn_to(self, line: object, console: Console) -> bool:
        """Whether a line was begun: none is while one of the same goes on."""
        if line == self._line:
            return False
        if self._line is not None:
            self._console.print()
            self.begin()
        self._line, self._console = line, console
        return True


def call_line(name: str, arguments: str) -> str:
    return one_line(f"calls {name}({arguments})")


def history(items: Iterable[dict[str, Any]]) -> Iterable[Text]:
    """The wire's items, each as a terminal shows it; kinds that are not known here are left out."""
    called: dict[str, str] = {}
    for item in items:
        match item:
            case {"type": "message", "role": role, "content": content}:
                said = visible("".join(part["text"] for part in content))
                yield Text.assemble(("you" if role == "user" else visible(role), "bold"), " ", said)
            case {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}:
                called[call_id] = name
                yield Text.assemble(("assistant", "bold"), " ", (call_line(name, arguments), "dim"))
            case {"type": "function_call_output", "call_id": call_id, "output": output}:
                whole = one_line(output)
                cut = whole if len(whole) <= SHOWN_RESULT else f"{whole[:SHOWN_RESULT]}..."
                yield Text.assemble((one_line(called.get(call_id, "tool")), "bold"), " ", (f"gave {cut}", "dim"))
