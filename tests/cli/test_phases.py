"""What a start says of itself on a terminal."""

import io

import pytest
from rich.console import Console

from chatpager.cli.phases import phase


@pytest.mark.parametrize("spins", [True, False], ids=["nothing else draws", "an engine draws a bar"])
def test_where_somebody_else_draws_there_is_a_line_in_place_of_a_spinner(spins, capsys):
    drawn = io.StringIO()
    with phase(Console(file=drawn, force_terminal=True), "loading m", spins=spins):
        pass
    assert ("loading m" in drawn.getvalue()) is spins
    assert capsys.readouterr().err == ("" if spins else "chatpager: loading m ...\n")
