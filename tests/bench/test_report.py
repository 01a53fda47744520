"""The page beside a measurement's figures."""

import json
import re
from html.parser import HTMLParser

import pytest

from chatpager.bench import plot, report

RESULT = {
    "what": "a <measurement>",
    "shape": "15m",
    "calls": [{"rows": 1, "us": 2.5}, {"rows": 4, "us": None, "skipped": "too & long"}],
    "by_tier": {"host": {"share": 0.5}, "disk": {"share": 0.25}},
    "nested": [{"rows": {"1": 2}}],
    "mixed": [{"rows": 1}, 2],
    "numbers": [1, 2],
    "none": [],
}


class Cells(HTMLParser):
    """The texts of each kind of element."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = {}, []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.found.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        self.open.remove(tag)

    def handle_data(self, data):
        for tag in self.open:
            self.found[tag][-1] += data


def test_rows_are_tables_and_the_rest_is_shown_as_it_stands():
    found = Cells(report.page(RESULT)).found
    assert found["h1"] == ["a <measurement>"]
    assert found["caption"] == ["calls", "by tier"]
    assert found["th"] == ["rows", "us", "skipped", "", "share"]
    assert found["td"] == ["1", "2.5", "", "4", "", "too & long", "host", "0.5", "disk", "0.25"]
    (rest,) = found["pre"]
    assert json.loads(rest) == {name: RESULT[name] for name in ("shape", "nested", "mixed", "numbers", "none")}


def test_both_files_are_written_and_neither_without_a_name(tmp_path):
    chart = plot.bars("Shares", {"host": 0.5}, "")
    report.save(RESULT, None, [chart])
    assert not list(tmp_path.iterdir())
    out = tmp_path / "figures.json"
    report.save(RESULT, str(out), [chart])
    assert json.loads(out.read_text()) == RESULT
    page = out.with_suffix(".html").read_text()
    assert chart in page and page.index(chart) < page.index("<table>")
    assert "http" not in page and "src=" not in page


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        report.save(RESULT, str(tmp_path / "gone" / "figures.json"))


def test_a_chart_s_labels_have_room():
    """Left of the axis for a figure; and the last place, which is at the right edge, ends there."""
    chart = plot.lines("Output", ["1 at once", "64 at once"], {"a": [2.5, 1644.5]}, " tokens/s")
    texts = re.findall(r'<text x="([^"]+)"[^>]*text-anchor="(\w+)">([^<]*)<', chart)
    assert [text for _, _, text in texts] == ["0", "822", "1,644", "1 at once", "64 at once"]
    assert [anchor for _, anchor, _ in texts][-2:] == ["middle", "end"]
    assert "<figcaption>Output, tokens/s</figcaption>" in chart
