"""What a person does on the page besides asking: branches, settings, lists, files, several tabs, and no network."""

import json
import re

import pytest

from tests.e2e.browsing import (
    ANSWERED,
    BROWSER,
    ENDLESS,
    LONG,
    PHONE,
    answers,
    api,
    ask,
    badges,
    choose,
    conversation,
    expect,
    field,
    letters,
    open_page,
    row_of,
    rows,
    send,
    stored,
)
from tests.processes import free_port, serving

pytestmark = BROWSER


def questions(page):
    return page.locator(".message-user .message-text")


def versions(page):
    return page.locator(".versions-place")


def created(page) -> list[dict]:
    return [frame for frame in page.wire.sent if frame["type"] == "response.create"]


# -- branches ---------------------------------------------------------------------------------------------------------


def test_an_edited_message_is_a_branch_that_shares_its_past(page, complaints):
    ask(page, "My name is Ada.")
    first = ask(page, "What is my name?")
    origin = conversation(page)
    page.get_by_role("button", name="Edit the message").last.click()
    editing = page.locator(".edit textarea")
    editing.fill("What is chatpager?")
    editing.press("Enter")
    expect(questions(page)).to_have_text(["My name is Ada.", "What is chatpager?"])
    expect(badges(page)).to_have_count(2, timeout=ANSWERED)
    assert conversation(page) != origin
    assert api(page, f"v1/conversations/{conversation(page)}")["chatpager"]["forked_from"] == origin
    expect(versions(page)).to_have_text("2/2")
    shared = page.locator(".versions-shared")
    expect(shared).to_have_text(re.compile(r"shares \d+ tokens"))
    explained = api(page, f"v1/cache/explain?first={origin}&second={conversation(page)}")
    assert shared.inner_text() == f"shares {explained['common_tokens']} tokens"
    expect(badges(page).last.locator(".heat")).to_have_text("warm")

    page.get_by_role("button", name="Earlier version").click()
    expect(versions(page)).to_have_text("1/2")
    expect(answers(page).last).to_have_text(first)
    page.reload()
    expect(versions(page)).to_have_text("1/2")
    assert rows(page).filter(has_text="My name is Ada.").count() >= 1
    assert complaints == []


def test_an_answer_given_again_stands_beside_the_first(page):
    ask(page, "What is chatpager?")
    listed = rows(page).count()
    page.get_by_role("button", name="Regenerate").click()
    expect(versions(page)).to_have_text("2/2", timeout=ANSWERED)
    expect(badges(page)).to_have_count(1, timeout=ANSWERED)
    expect(questions(page)).to_have_text(["What is chatpager?"])
    page.get_by_role("button", name="Regenerate").click()
    expect(versions(page)).to_have_text("3/3", timeout=ANSWERED)
    page.get_by_role("button", name="Earlier version").click()
    expect(versions(page)).to_have_text("2/3")
    expect(rows(page)).to_have_count(listed)


def test_a_stopped_answer_goes_on(page):
    page.wire.asking = {"ignore_eos": True, "max_output_tokens": ENDLESS}
    send(page, "What is chatpager?")
    expect(answers(page)).to_have_count(1, timeout=ANSWERED)
    page.keyboard.press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible(timeout=ANSWERED)
    page.wire.asking = {}
    page.get_by_role("button", name="Continue").click()
    expect(badges(page)).to_have_count(2, timeout=ANSWERED)
    expect(questions(page).last).to_have_text("Continue.")


# -- what a turn asks for ---------------------------------------------------------------------------------------------


def test_the_settings_are_asked_for_and_known_on_another_device(page, browser, page_url, complaints):
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("9")
    expect(page.locator(".setting-wrong")).to_be_visible()
    page.get_by_label("Temperature").fill("0")
    expect(page.locator(".setting-wrong")).to_have_count(0)
    page.get_by_label("Longest answer").fill("40")
    page.get_by_label("Seed").fill("7")
    page.keyboard.press("Escape")
    ask(page, "My name is Ada.")
    wanted = {"instructions": "Be brief.", "temperature": 0, "max_output_tokens": 40, "seed": 7}
    assert wanted.items() <= created(page)[0].items()
    context = browser.new_context(locale="en-GB")
    other = open_page(context, page.url, complaints)
    expect(badges(other)).to_have_count(1)
    other.get_by_role("button", name="Settings").click()
    expect(other.get_by_label("System prompt")).to_have_value("Be brief.")
    expect(other.get_by_label("Longest answer")).to_have_value("40")
    context.close()


def test_the_explanation_says_where_the_prompt_left_the_turn_before(page):
    ask(page, "My name is Ada.")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("You know everything about ships.")
    page.get_by_role("button", name="Close").click()
    ask(page, "What is my name?")
    badges(page).last.click()
    expect(page.locator(".receipt[open] dt")).to_contain_text(["Prompt", "Reuse", "Break"])
    expect(page.locator(".receipt[open]")).to_contain_text("left the turn before it at token")


# -- while it is computed ---------------------------------------------------------------------------------------------


def test_speed_and_first_token_are_told_while_the_answer_comes(page):
    page.wire.asking = {"ignore_eos": True, "max_output_tokens": 400}
    send(page, "What is chatpager?")
    expect(page.locator(".pace")).to_have_text(
        re.compile(r"about \d+ tokens · .+ to first token · [\d.]+ tok/s"), timeout=ANSWERED
    )
    expect(badges(page)).to_have_count(1, timeout=ANSWERED)
    expect(page.locator(".pace")).to_have_count(0)


def test_a_long_prompt_shows_how_far_it_is_read_and_can_be_stopped_meanwhile(page):
    words = " ".join(f"word{number}" for number in range(400))
    page.wire.hold_after = "chatpager.prefill"
    send(page, words)
    bar = page.get_by_role("progressbar", name="Reading the prompt")
    stop = page.get_by_role("button", name="Stop")
    expect(bar).to_be_visible(timeout=ANSWERED)  # by then the server has named the response
    stop.click()
    while not (cancels := [frame for frame in page.wire.sent if frame["type"] == "response.cancel"]):
        page.wait_for_timeout(20)
    [cancelled] = cancels
    assert cancelled["response_id"] == page.wire.received[0]["response"]["id"]
    page.wire.release()
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=ANSWERED)
    page.reload()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    page.get_by_role("button", name="Regenerate").click()
    expect(badges(page)).to_have_count(1, timeout=ANSWERED)


def test_a_message_too_long_for_the_server_is_a_draft_again_and_leaves_no_chat(page):
    words = "word " * 200_000
    send(page, words)
    expect(page.get_by_text("Not sent:")).to_be_visible(timeout=ANSWERED)
    expect(field(page)).to_have_value(words)
    expect(rows(page).filter(has_text="New chat")).to_have_count(0)
    assert "#/c/" not in page.url
    page.reload()
    expect(field(page)).to_have_value(words)


def test_five_megabytes_are_not_pasted_and_what_was_written_is_kept(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    field(page).fill("a draft")
    page.evaluate("navigator.clipboard.writeText('The quick brown fox. '.repeat(250_000))")
    field(page).press("Control+v")
    expect(
        page.get_by_role("alert").get_by_text("Nothing was put in: 5,250,000 characters are too many")
    ).to_be_visible()
    expect(field(page)).to_have_value("a draft")
    page.evaluate("navigator.clipboard.writeText(' of two words')")
    field(page).press("Control+v")
    expect(field(page)).to_have_value("a draft of two words")


def test_thoughts_are_folded_and_calls_are_cards(page, page_url):
    page.wire.hold_after = "response.created"
    send(page, "What is chatpager?")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    while not page.wire.received:
        page.wait_for_timeout(20)
    response = page.wire.received[0]["response"]
    page.wire.release = page.wire.held.clear
    call = {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "c", "name": "weather"}
    place = {"output_index": 0, "item_id": "fc_1"}
    for number, event in enumerate(
        [
            {"type": "response.reasoning_text.delta", **place, "delta": "Let me look it up."},
            {"type": "response.output_item.added", **place, "item": {**call, "arguments": ""}},
            {"type": "response.output_item.done", **place, "item": {**call, "arguments": '{"city": "Oslo"}'}},
            {"type": "response.output_text.delta", **place, "delta": "Bread &amp; butter &copy; &notit; &nowhere;"},
        ],
        1,
    ):
        page.wire.line.send(json.dumps({**event, "sequence_number": number, "response": response}))
    thoughts = page.locator("details.thoughts")
    expect(thoughts.get_by_text("Let me look it up.")).to_be_hidden()
    thoughts.locator("summary").click()
    expect(thoughts.get_by_text("Let me look it up.")).to_be_visible()
    page.get_by_text("Called weather").click()
    expect(page.locator(".call pre").first).to_contain_text('"city": "Oslo"')
    expect(answers(page)).to_have_text("Bread & butter © &notit; &nowhere;")  # names that the browser decodes


# -- the list ---------------------------------------------------------------------------------------------------------


def test_chats_are_found_by_what_was_said_in_them(page):
    ask(page, "My name is Zebulon.")
    title = f"About {conversation(page)[5:13]}"
    choose(page, row_of(page, "Zebulon"), "Rename")
    page.get_by_role("textbox", name="Title of the chat").fill(title)
    page.get_by_role("textbox", name="Title of the chat").press("Enter")
    page.keyboard.press("Control+k")
    search = page.get_by_role("searchbox", name="Search chats")
    expect(search).to_be_focused()
    search.fill("zebulon")
    expect(page.get_by_text(re.compile(r"\d+ chats? found"))).to_be_visible()
    expect(rows(page).filter(has_text=title)).to_have_count(1)
    search.fill("no such words anywhere")
    expect(page.get_by_text("No chat has these words.")).to_be_visible()
    search.press("Escape")
    expect(search).to_have_value("")
    expect(rows(page).filter(has_text=title)).to_have_count(1)


def test_a_pinned_chat_stands_first(page):
    ask(page, "My name is Ada.")
    pinned = conversation(page)
    choose(page, page.locator(".session.is-current"), "Pin")
    page.locator("a.new-chat").click()
    expect(badges(page)).to_have_count(0)  # the other chat's are gone
    ask(page, "What is chatpager?")
    expect(page.locator(".sessions section").first.locator("h2")).to_have_text("Pinned")
    expect(page.locator(f'.sessions section:first-of-type a[href="#/c/{pinned}"]')).to_have_count(1)
    page.goto(page.url.split("#")[0] + f"#/c/{pinned}")
    choose(page, page.locator(".session.is-current"), "Unpin")
    expect(page.locator(".sessions h2", has_text="Pinned")).to_have_count(0)


@pytest.mark.parametrize(("entry", "ending"), [("Export as JSON", ".json"), ("Export as Markdown", ".md")])
def test_a_chat_is_exported_and_read_in_again(page, tmp_path, entry, ending):
    ask(page, "My name is Ada.")
    said = [" ".join(text.split()) for text in stored(page)]
    origin = conversation(page)
    with page.expect_download() as download:
        choose(page, page.locator(".session.is-current"), entry)
    path = tmp_path / f"chat{ending}"
    download.value.save_as(path)
    page.locator('input[type="file"]').set_input_files(path)
    page.wait_for_url(lambda url: origin not in url)
    expect(badges(page)).to_have_count(0)  # what was read in was not computed here
    expect(answers(page)).to_have_count(1)
    assert [" ".join(text.split()) for text in stored(page)] == said
    expect(page.get_by_role("heading", level=1)).to_have_text("My name is Ada.")
    ask(page, "What is my name?")


def test_a_file_that_is_no_chat_is_refused(page, tmp_path):
    path = tmp_path / "other.json"
    path.write_text("{}")
    page.locator('input[type="file"]').set_input_files(path)
    expect(page.get_by_role("alert").get_by_text("This file holds no chat")).to_be_visible()


# -- several tabs, and none of them connected -------------------------------------------------------------------------


def test_two_tabs_show_the_same_answer_while_it_is_written(page, complaints):
    ask(page, "My name is Ada.")
    other = open_page(page.context, page.url, complaints)
    expect(badges(other)).to_have_count(1)
    page.wire.asking = {"ignore_eos": True, "max_output_tokens": LONG}
    send(page, "What is chatpager?")
    expect(questions(other)).to_have_count(2)
    expect(other.get_by_role("button", name="Stop")).to_be_visible()
    expect(answers(other)).to_have_count(2, timeout=ANSWERED)
    expect(badges(page)).to_have_count(2, timeout=ANSWERED)
    expect(badges(other)).to_have_count(2, timeout=ANSWERED)
    assert any(frame["type"] == "response.resume" for frame in other.wire.sent)
    assert other.locator(".message-text").all_inner_texts() == page.locator(".message-text").all_inner_texts()
    assert len(stored(page)) == 4
    page.wire.asking["max_output_tokens"] = 200
    page.evaluate("BroadcastChannel.prototype.postMessage = () => undefined")  # as from another device
    other.evaluate("Object.defineProperty(document, 'visibilityState', { get: () => 'hidden' })")  # does not look
    send(page, "What is my name?")
    send(other, "你好")  # waits for the other's answer
    for one in (page, other):
        expect(badges(one)).to_have_count(4, timeout=ANSWERED)
    assert other.locator(".message-text").all_inner_texts() == page.locator(".message-text").all_inner_texts()
    assert complaints == []


def test_an_answer_goes_on_after_the_line_was_cut_without_doubling_a_word(page):
    page.wire.asking = {"ignore_eos": True, "max_output_tokens": LONG}
    page.wire.hold_after = "response.output_text.delta"
    send(page, "What is chatpager?")
    expect(answers(page)).to_have_count(1, timeout=ANSWERED)
    page.wire.cut()
    expect(badges(page)).to_have_count(1, timeout=ANSWERED)
    assert [frame["type"] for frame in page.wire.sent].count("response.create") == 1
    assert any(frame["type"] == "response.resume" for frame in page.wire.sent)
    assert letters(stored(page)[1]) == letters(answers(page).text_content())
    page.wire.asking, page.wire.cuts_to_come = {}, 2
    ask(page, "What is my name?")
    keys = [frame["idempotency_key"] for frame in created(page)]
    assert [keys.count(key) for key in dict.fromkeys(keys)] == [1, 3]
    assert len(stored(page)) == 4


def test_without_a_network_the_page_says_so_and_keeps_what_is_written(page):
    page.context.set_offline(True)
    expect(page.get_by_text("This device is offline.")).to_be_visible()
    field(page).fill("a draft")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.context.set_offline(False)
    expect(page.get_by_text("This device is offline.")).to_have_count(0)
    expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=ANSWERED)
    field(page).press("Enter")
    expect(badges(page)).to_have_count(1, timeout=ANSWERED)
    assert stored(page)[0] == "a draft"


def test_a_restart_of_the_server_loses_nothing(browser, fork_server, tmp_path, complaints):
    context = browser.new_context(locale="en-GB")
    port = str(free_port())
    with serving(fork_server, tmp_path, "--port", port) as running:
        page = open_page(context, running.url, [])
        answer = ask(page, "My name is Ada.")
        field(page).fill("a draft")
        running.post("/v1/responses", {"input": "Go on.", "background": True, "ignore_eos": True})
        running.post("/v1/admin/drain")  # it waits for that answer, and the connection stands
        expect(page.get_by_text("The server is shutting down: it takes no new messages.")).to_be_visible()
        expect(page.get_by_role("button", name="Send")).to_be_disabled()
    expect(page.get_by_text("No connection to the server.")).to_be_visible()
    with serving(fork_server, tmp_path, "--port", port):
        expect(page.get_by_text("No connection to the server.")).to_have_count(0, timeout=ANSWERED)
        expect(field(page)).to_have_value("a draft")
        expect(answers(page)).to_have_text([answer])
        ask(page, "What is my name?")
        assert len(stored(page)) == 4
        context.close()


# -- by keyboard, and in other words ----------------------------------------------------------------------------------


def test_everything_by_keyboard(page):
    field(page).press_sequentially("My name is Ada.")
    page.keyboard.press("Enter")
    expect(badges(page)).to_have_count(1, timeout=ANSWERED)
    page.keyboard.press("Control+b")
    expect(page.locator("#sidebar")).to_be_hidden()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("searchbox", name="Search chats")).to_be_focused()
    page.keyboard.press("Control+Shift+O")
    expect(page.get_by_role("heading", name="Ask me something.")).to_be_visible()
    expect(field(page)).to_be_focused()
    page.get_by_role("heading", level=1).click()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    field(page).press("?")
    expect(field(page)).to_have_value("?")


@pytest.mark.parametrize(
    ("locale", "title", "lang"),
    [
        ("zh-TW", "問我點什麼吧。", "zh-Hant"),
        ("zh-CN", "问我点什么吧。", "zh-Hans"),
        ("en-GB", "Ask me something.", "en"),
    ],
)
def test_the_page_speaks_the_readers_language(browser, page_url, locale, title, lang):
    context = browser.new_context(locale=locale)
    page = context.new_page()
    page.goto(page_url)
    expect(page.get_by_role("heading", name=title)).to_be_visible()
    assert page.locator("html").get_attribute("lang") == lang
    context.close()


def test_the_language_and_the_colours_can_be_chosen(page):
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Colours").select_option("dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(24, 24, 22)"
    page.get_by_label("Language").select_option("zh-Hant")
    expect(page.get_by_role("heading", name="問我點什麼吧。")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(24, 24, 22)"


# -- long ones --------------------------------------------------------------------------------------------------------


def test_a_history_of_500_messages_is_drawn_in_parts(page):
    said = [
        ("user", f"question {place}") if place % 2 == 0 else ("assistant", f"answer {place}") for place in range(500)
    ]
    items = [{"type": "message", "role": role, "content": text} for role, text in said]
    made = page.request.post(page.url.split("#")[0] + "v1/conversations", data={"items": items}).json()
    page.goto(page.url.split("#")[0] + f"#/c/{made['id']}")
    expect(page.get_by_text("answer 499", exact=True)).to_be_in_viewport()
    assert page.locator(".message").count() < 100
    page.locator(".thread-scroll").evaluate("box => box.scrollTop = 0")
    expect(page.get_by_text("question 0", exact=True)).to_be_visible()
    assert page.locator(".message").count() < 100
    page.get_by_role("button", name="Go to the latest message").click()
    expect(page.get_by_text("answer 499", exact=True)).to_be_in_viewport()


def test_on_a_phone_a_chat_is_made_searched_and_deleted(browser, page_url, complaints):
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, locale="en-GB")
    page = open_page(context, page_url, complaints)
    ask(page, "My name is Ada.")
    page.get_by_role("button", name="Show chats").tap()
    choose(page, page.locator(".session.is-current"), "Delete")
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    context.close()
    assert complaints == []
