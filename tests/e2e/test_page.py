"""The page in a real Chromium, against a real server: what a person sees and what goes over its socket.

``CHATPAGER_E2E_URL`` names a server that runs already, to be looked at in place of the tests' own.
"""

import json
import os
import re
import shutil
import uuid

import pytest

from tests.processes import serving

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]

ANSWERED = 60_000  # milliseconds that a turn of the demonstration model may take
LONG = 1000
"""Tokens of an answer that takes the demonstration model some seconds."""
BADGE = re.compile(r"cached [\d,]+ / [\d,]+ tokens · .+ to first token")


@pytest.fixture
def page_url(request) -> str:
    given = os.environ.get("CHATPAGER_E2E_URL")
    return (given or request.getfixturevalue("server_url")).rstrip("/") + "/"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


class Wire:
    """Stands between the page and its server: sees every frame, can hold the server's back and cut the line.

    ``asking`` is added to every request the page makes: what its person cannot ask for, such as a long answer.
    """

    def __init__(self, page) -> None:
        self.sent: list[dict] = []
        self.received: list[dict] = []
        self.asking: dict = {}
        self.hold_after: str | None = None
        self.refusing = False
        self.held: list[str] = []
        self.line = self.server = None
        page.route_web_socket(re.compile("/v1/responses$"), self.connect)

    def connect(self, line) -> None:
        if self.refusing:
            line.close()
            return
        self.line, self.server = line, line.connect_to_server()
        line.on_message(self.from_page)
        self.server.on_message(self.from_server)

    def from_page(self, frame: str) -> None:
        event = json.loads(frame)
        self.sent.append(event)
        self.server.send(json.dumps({**event, **self.asking}) if event["type"] == "response.create" else frame)

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
        self.server.close()
        self.line.close()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def page(browser, page_url, complaints):
    context = browser.new_context()
    opened = context.new_page()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.wire = Wire(opened)
    opened.goto(page_url)
    expect(opened.get_by_role("heading", name="Ask me something.")).to_be_visible()
    yield opened
    context.close()


def field(page):
    return page.get_by_role("textbox", name="Message", exact=True)


def badges(page):
    return page.locator(".badge")


def answers(page):
    return page.locator(".message-assistant .message-text")


def send(page, text: str) -> None:
    field(page).fill(text)
    field(page).press("Enter")


def ask(page, text: str) -> str:
    """Send `text`, wait for the whole answer, and return it."""
    before = badges(page).count()
    send(page, text)
    expect(badges(page)).to_have_count(before + 1, timeout=ANSWERED)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return answers(page).last.inner_text()


def rows(page):
    return page.get_by_role("navigation", name="Chats").get_by_role("link")


def stored(page) -> list[str]:
    """The texts of the open conversation, as the server has them."""
    conversation = page.url.split("#/c/")[1]
    items = page.request.get(page.url.split("#")[0] + f"v1/conversations/{conversation}/items?order=asc").json()["data"]
    return ["".join(part["text"] for part in item["content"]) for item in items]


def test_every_turn_shows_its_badge_and_the_second_is_warm(page, complaints):
    ask(page, "My name is Ada.")
    expect(badges(page).first).to_contain_text(BADGE)
    ask(page, "What is my name?")
    expect(badges(page).last).to_contain_text(BADGE)
    expect(badges(page).last.locator(".heat")).to_have_text("warm")
    badges(page).last.click()
    expect(page.locator(".receipt[open] dt")).to_have_text(["Prompt", "Reuse", "Answer", "Time"])
    assert complaints == []


def test_the_answer_streams_over_the_socket_and_arrives_whole(page):
    answer = ask(page, "What is chatpager?")
    [created] = [frame for frame in page.wire.sent if frame["type"] == "response.create"]
    assert created["input"] == "What is chatpager?"
    deltas = [event["delta"] for event in page.wire.received if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 1
    assert " ".join("".join(deltas).split()) == " ".join(answer.split())


def test_a_chat_is_reopened_by_its_address_with_everything_in_it(page):
    ask(page, "My name is Ada.")
    ask(page, "你好")
    before = page.locator(".message-text").all_inner_texts()
    badge = badges(page).last.inner_text()
    page.reload()
    expect(badges(page)).to_have_count(2)
    assert page.locator(".message-text").all_inner_texts() == before
    assert badges(page).last.inner_text() == badge
    assert [" ".join(text.split()) for text in stored(page)] == [" ".join(text.split()) for text in before]


def test_chats_are_listed_renamed_reopened_and_deleted(page):
    answer = ask(page, "My name is Ada.")
    page.locator("a.new-chat").click()
    expect(page.get_by_role("heading", name="Ask me something.")).to_be_visible()
    ask(page, "What is chatpager?")
    expect(rows(page).nth(0)).to_have_text("What is chatpager?")
    expect(rows(page).nth(1)).to_have_text("My name is Ada.")

    rows(page).nth(1).click()
    expect(answers(page)).to_have_text([answer])
    title = f"About Ada {uuid.uuid4()}"
    row = page.locator(".session").filter(has=page.locator(f'a[href="{page.url[page.url.index("#") :]}"]'))
    row.hover()
    row.get_by_title("Rename").focus()  # the list may move under the mouse; the focus stays with its row
    row.get_by_title("Rename").click()
    page.get_by_role("textbox", name="Title of the chat").fill(title)
    page.get_by_role("textbox", name="Title of the chat").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(title)

    count = rows(page).count()
    delete = page.get_by_role("button", name=f"Delete {title}")
    delete.click()
    page.get_by_role("button", name="Keep it").click()
    expect(rows(page)).to_have_count(count)
    expect(delete).to_be_focused()
    delete.press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Ask me something.")).to_be_visible()
    expect(rows(page).filter(has_text=title)).to_have_count(0)


@pytest.mark.parametrize("way", ["button", "key"])
def test_stop_reaches_the_server_while_the_answer_runs(page, way):
    page.wire.hold_after = "response.output_text.delta"
    send(page, "What is chatpager?")
    expect(answers(page)).to_have_count(1, timeout=ANSWERED)
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Stopping…")).to_be_disabled()
    [cancelled] = [frame for frame in page.wire.sent if frame["type"] == "response.cancel"]
    assert cancelled["response_id"] == page.wire.received[0]["response"]["id"]
    page.wire.release()
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=ANSWERED)


def test_an_answer_whose_socket_drops_is_read_from_the_server_to_its_end(page):
    page.wire.hold_after = "response.output_text.delta"
    send(page, "What is chatpager?")
    expect(answers(page)).to_have_count(1, timeout=ANSWERED)
    page.wire.cut()
    page.wire.release = page.wire.held.clear
    page.wire.release()
    page.wire.hold_after = None
    expect(badges(page)).to_have_count(1, timeout=ANSWERED)
    assert " ".join(stored(page)[1].split()) == " ".join(answers(page).inner_text().split())
    ask(page, "你好")


def test_an_answer_is_followed_to_its_end_after_a_reload_in_the_middle_of_it(page):
    page.wire.asking = {"ignore_eos": True, "max_output_tokens": LONG}
    page.wire.hold_after = "response.output_text.delta"
    send(page, "What is chatpager?")
    expect(answers(page)).to_have_count(1, timeout=ANSWERED)
    page.reload()
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_enabled()
    expect(answers(page)).to_have_count(1)
    begun = answers(page).inner_text()
    expect(answers(page)).not_to_have_text(begun, timeout=ANSWERED)
    assert stop.is_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=ANSWERED)
    expect(stop).to_have_count(0)
    whole = answers(page).inner_text()
    assert whole.startswith(begun)
    assert " ".join(stored(page)[1].split()) == " ".join(whole.split())
    short = page.get_by_text("Cut short: the answer reached its limit on tokens.")
    expect(short).to_be_visible()
    page.reload()
    expect(short).to_be_visible()
    expect(badges(page)).to_have_count(1)


def test_an_answer_can_be_stopped_after_a_reload_in_the_middle_of_it(page):
    page.wire.asking = {"ignore_eos": True, "max_output_tokens": LONG}
    page.wire.hold_after = "response.output_text.delta"
    send(page, "What is chatpager?")
    expect(answers(page)).to_have_count(1, timeout=ANSWERED)
    page.reload()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible(timeout=ANSWERED)
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_lost_connection_is_shown_and_comes_back(page):
    page.wire.refusing = True
    page.wire.cut()
    expect(page.get_by_text("No connection to the server.")).to_be_visible()
    field(page).fill("a draft")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.wire.refusing = False
    page.get_by_role("button", name="Try now").click()
    expect(page.get_by_role("button", name="Try now")).to_have_count(0)
    expect(page.get_by_role("button", name="Send")).to_be_enabled()


def test_a_server_that_wants_a_key_is_not_called_away(browser, fork_server, tmp_path):
    with serving(fork_server, tmp_path, CHATPAGER_API_KEY="secret") as locked:
        context = browser.new_context()
        page = context.new_page()
        page.goto(locked.url)
        expect(page.get_by_text("This server wants an API key; the page cannot send one yet.")).to_be_visible()
        expect(page.get_by_text("No connection to the server.")).to_have_count(0)
        expect(page.get_by_text("could not be reached")).to_have_count(0)
        field(page).fill("a draft")
        expect(page.get_by_role("button", name="Send")).to_be_disabled()
        context.close()


def test_what_is_written_survives_a_reload(page):
    field(page).fill("half a thought")
    page.reload()
    expect(field(page)).to_have_value("half a thought")


def test_shift_enter_starts_a_line_and_text_is_never_markup(page):
    field(page).fill("<b>one</b>")
    field(page).press("Shift+Enter")
    field(page).press_sequentially("  two")
    field(page).press("Enter")
    said = page.locator(".message-user .message-text")
    expect(said).to_have_count(1)
    assert said.inner_text() == "<b>one</b>\n  two"
    expect(badges(page)).to_have_count(1, timeout=ANSWERED)


def test_an_example_starts_a_chat(page):
    page.get_by_role("button", name="What is chatpager?", exact=True).click()
    expect(badges(page)).to_have_count(1, timeout=ANSWERED)


def test_whole_sentences_are_told_to_a_screen_reader(page):
    answer = ask(page, "What is chatpager?")
    told = page.get_by_role("log").inner_text()
    assert " ".join(told.split()) == " ".join(answer.split())


def test_on_a_phone_the_list_is_a_drawer(page):
    page.set_viewport_size({"width": 390, "height": 844})
    sidebar = page.locator("#sidebar")
    expect(sidebar).not_to_be_in_viewport()
    page.get_by_role("button", name="Show chats").click()
    expect(sidebar).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(sidebar).not_to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_chat_that_is_gone_says_so(page, page_url):
    page.goto(page_url + "#/c/conv_that_never_was")
    expect(page.get_by_text("This chat does not exist any more.")).to_be_visible()
