"""The page in a real Chromium, against a real server: what a person sees and what goes over its socket."""

import uuid

import pytest

from tests.e2e.browsing import (
    ANSWERED,
    BADGE,
    BROWSER,
    ENDLESS,
    LONG,
    PHONE,
    answers,
    ask,
    badges,
    choose,
    expect,
    field,
    letters,
    row_of,
    rows,
    send,
    stored,
)

pytestmark = BROWSER


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
    choose(page, row, "Rename")
    page.get_by_role("textbox", name="Title of the chat").fill(title)
    page.get_by_role("textbox", name="Title of the chat").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(title)

    choose(page, row_of(page, title), "Delete")
    expect(page.get_by_role("heading", name="Ask me something.")).to_be_visible()
    expect(rows(page).filter(has_text=title)).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    expect(answers(page)).to_have_text([answer])

    address = page.url
    choose(page, row_of(page, title), "Delete")
    page.goto("about:blank")  # who leaves does not wait
    page.goto(address)
    expect(page.get_by_text("This chat does not exist any more.")).to_be_visible()


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
    assert letters(stored(page)[1]) == letters(answers(page).inner_text())
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
    assert letters(whole).startswith(letters(begun))
    assert letters(stored(page)[1]) == letters(whole)
    short = page.get_by_text("Cut short: the answer reached its limit on tokens.")
    expect(short).to_be_visible()
    page.reload()
    expect(short).to_be_visible()
    expect(badges(page)).to_have_count(1)


def test_an_answer_can_be_stopped_after_a_reload_in_the_middle_of_it(page):
    page.wire.asking = {"ignore_eos": True, "max_output_tokens": ENDLESS}
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
    page.set_viewport_size(PHONE)
    sidebar = page.locator("#sidebar")
    expect(sidebar).not_to_be_in_viewport()
    page.get_by_role("button", name="Show chats").click()
    expect(sidebar).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(sidebar).not_to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_chat_that_is_gone_says_so(page, page_url):
    page.goto(page_url + "#/c/conv_that_never_was")
    expect(page.get_by_text("This chat does not exist any more.")).to_be_visible()
