"""A real Chromium before the page of a real server, and what stands on the wire between them.

``CHATPAGER_E2E_URL`` names a server that runs already, to be looked at in place of the tests' own.
"""

import json
import os
import re
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    expect = sync_playwright = None

CHROMIUM = shutil.which("chromium")
BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
    pytest.mark.skipif(expect is None, reason="no playwright here"),
]
ROOT = Path(__file__).parent.parent.parent
PICTURES = ROOT / "test-output" / "page"
"""Where tests leave screenshots, to be looked at."""

ANSWERED = 60_000  # milliseconds that a turn of the demonstration model may take
LONG, ENDLESS = 2000, 3500
"""Tokens of an answer that takes the demonstration model some seconds, and of one that somebody has to stop."""
PHONE = {"width": 390, "height": 844}
BADGE = re.compile(r"cached [\d,]+ / [\d,]+ tokens · .+ to first token")


@pytest.fixture
def page_url(request) -> str:
    given = os.environ.get("CHATPAGER_E2E_URL")
    return (given or request.getfixturevalue("server_url")).rstrip("/") + "/"


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=ANSWERED)  # five seconds, where a busy machine draws nothing for so long, are too few
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


class Wire:
    """Stands between the page and its server: sees every frame, can hold the server's back and cut the line.

    ``asking`` is added to every request the page makes: what its person cannot ask for, such as a long answer. So is a
    seed, another one for each turn: what is answered is no matter of luck.
    """

    def __init__(self, page) -> None:
        self.sent: list[dict] = []
        self.received: list[dict] = []
        self.asking: dict = {}
        self.hold_after: str | None = None
        self.refusing = False
        self.cuts_to_come = 0
        """So often the line is cut when a turn has reached the server, before it says a word of it."""
        self.held: list[str] = []
        self.line = self.server = None
        page.route_web_socket(re.compile("/v1/responses$"), self.connect)

    def connect(self, line) -> None:
        if self.refusing:
            line.close()
            return
        self.held, self.hold_after = [], None  # of the line before it
        self.line, self.server = line, (server := line.connect_to_server())
        line.on_message(self.from_page)
        # What is still on its way on a line that was cut must not come over the one after it.
        server.on_message(lambda frame: self.from_server(frame) if self.server is server else None)

    def from_page(self, frame: str) -> None:
        event = json.loads(frame)
        self.sent.append(event)
        if event["type"] == "response.create":
            turns = list(dict.fromkeys(one.get("idempotency_key") for one in self.sent if one["type"] == event["type"]))
            seed = turns.index(event.get("idempotency_key"))  # what is sent again asks for the same
            frame = json.dumps({"seed": seed, **event, **self.asking})
        self.server.send(frame)
        if event["type"] == "response.create" and self.cuts_to_come:
            self.cuts_to_come -= 1
            self.cut()

    def from_server(self, frame: str) -> None:
        if self.held:
            self.held.append(frame)
            return
        event = json.loads(frame)
        self.received.append(event)
        self.line.send(frame)
        if event["type"] == self.hold_after:
            self.held.append("")

    def release(self) -> None:
        frames, self.held, self.hold_after = self.held[1:], [], None
        for frame in frames:
            self.from_server(frame)

    def cut(self) -> None:
        server, self.server = self.server, None
        server.close()
        self.line.close()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def page(browser, page_url, complaints):
    context = browser.new_context(locale="en-GB")
    yield open_page(context, page_url, complaints)
    context.close()


def open_page(context, url: str, complaints: list[str]):
    """A page of this browser at ``url``, with its wire; what its console says is wrong goes to ``complaints``."""
    opened = context.new_page()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.wire = Wire(opened)
    opened.goto(url)
    expect(field(opened)).to_be_visible()
    return opened


def field(page):
    return page.get_by_role("textbox", name="Message", exact=True)


def badges(page):
    return page.locator(".badge")


def answers(page):
    return page.locator(".message-assistant .message-text")


def send(page, text: str) -> None:
    field(page).fill(text)
    button = page.get_by_role("button", name="Send", exact=True)
    expect(button).to_be_enabled(timeout=ANSWERED)  # else Enter does nothing
    field(page).press("Enter")


def ask(page, text: str) -> str:
    """Send `text`, wait for the whole answer, and return it. Fails at once, with the reason, where it was not sent."""
    before, refused = badges(page).count(), page.get_by_text("Not sent:")
    send(page, text)
    expect(badges(page).nth(before).or_(refused).first).to_be_visible(timeout=ANSWERED)
    assert refused.all_inner_texts() == []
    expect(badges(page)).to_have_count(before + 1)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return answers(page).last.inner_text()


def rows(page):
    return page.get_by_role("navigation", name="Chats").get_by_role("link")


def api(page, path: str) -> dict:
    return page.request.get(page.url.split("#")[0] + path).json()


def stored(page) -> list[str]:
    """The texts of the open conversation, as the server has them."""
    items = api(page, f"v1/conversations/{conversation(page)}/items?order=asc")["data"]
    return ["".join(part["text"] for part in item["content"]) for item in items]


def letters(text: str) -> str:
    """Without the marks of Markdown, which stored text has and drawn text has not, and without spaces."""
    return re.sub(r"[\W_]", "", text)


def conversation(page) -> str:
    return page.url.split("#/c/")[1]


def row_of(page, text: str):
    """The row with this title."""
    return page.locator(".session").filter(has_text=text).first


def choose(page, row, entry: str) -> None:
    """Something of a row's menu."""
    row.get_by_title("More").focus()  # the list may move under the mouse; the focus stays with its row
    row.get_by_title("More").click()
    page.locator(".menu").get_by_text(entry).click()


def picture(page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


WORK = "[" + "1.5," * 100_000 + "1]"
WORK_SECONDS = 0.018
"""Of processor time, to read it on the machine that the pages' bounds are from."""


def slowness() -> float:
    """How many times as long as there the same work takes here, if longer: others share caches and cores as well."""

    def seconds() -> float:
        began = time.thread_time()
        json.loads(WORK)
        return time.thread_time() - began

    return max(1.0, min(seconds() for _ in range(5)) / WORK_SECONDS)


def longest_task(trace: bytes) -> float:
    """Of the page's own thread, milliseconds of processor time as on a machine of ours: those depend neither on what
    runs beside the test nor on how fast the machine is."""
    events = json.loads(trace)["traceEvents"]
    threads = Counter((event["pid"], event["tid"]) for event in events if event["name"] == "FunctionCall")
    [(thread, _)] = threads.most_common(1)
    tasks = [event for event in events if event["name"] == "RunTask" and (event["pid"], event["tid"]) == thread]
    return max(event.get("tdur", 0) for event in tasks) / 1000 / slowness()
