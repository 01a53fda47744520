"""How the page looks and keeps up: screenshots to be looked at, axe on every view, long answers without a stall."""

import json
import re

import pytest

from tests.e2e.browsing import (
    ANSWERED,
    BROWSER,
    PHONE,
    ROOT,
    answers,
    ask,
    badges,
    expect,
    field,
    longest_task,
    open_page,
    picture,
    send,
)

pytestmark = BROWSER

AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
DESKTOP = {"width": 1280, "height": 800}
RICH = """Here is how a **paged cache** works, in short.

## Blocks

Each block holds `16` tokens and is named by the hash of its parent and its own tokens:

```python
def block_hash(parent: bytes, tokens: list[int]) -> bytes:
    # the name of a block
    return sha256(parent + pack(tokens)).digest()
```

1. A prompt is cut into blocks.
2. Those that are known are *shared*.
   - on the device
   - in host memory

| Tier | Latency | Size |
| :- | -: | -: |
| device | 1 µs | 8 GiB |
| host | 40 µs | 64 GiB |

> A fork is one pointer.

See [the documentation](https://example.test/docs) for more."""
VIEWS = ("empty", "thread", "receipt", "menu", "settings", "help", "edit", "found", "offline", "missing", "notice")


def axe(page) -> list[str]:
    """What axe finds wrong, in words."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("rules => axe.run(document, rules)", RULES)["violations"]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]


@pytest.fixture(scope="module")
def rich(browser, request) -> tuple[str, str]:
    """A server's address and a conversation there with a bit of everything."""
    url = request.getfixturevalue("server_url").rstrip("/") + "/"
    context = browser.new_context(locale="en-GB")
    page = open_page(context, url, [])
    items = [
        {"type": "message", "role": "user", "content": "How does a paged cache work?\nShow me some code."},
        {"type": "message", "role": "assistant", "content": RICH},
        {"type": "message", "role": "user", "content": "你好，請用中文回答。"},
        {"type": "message", "role": "assistant", "content": "好的。分頁快取把提示切成**區塊**，相同的前綴只計算一次。"},
    ]
    body = {"metadata": {"title": "How a paged cache works"}, "items": items}
    made = page.request.post(url + "v1/conversations", data=body).json()["id"]
    page.goto(f"{url}#/c/{made}")
    expect(answers(page)).to_have_count(2)
    ask(page, "My name is Ada.")
    ask(page, "What is my name?")
    address = page.url
    context.close()
    return url, address


def show(page, view: str, url: str, address: str) -> None:
    """Bring the page to this view."""
    if view == "login":
        nobody = {"object": "login", "required": True, "tenant": None, "role": None, "expires_in": None}
        page.route("**/v1/login", lambda route: route.fulfill(json=nobody))
        page.goto(address)
        expect(page.get_by_label("API key")).to_be_visible()
        return
    page.goto(url if view in ("empty", "help") else f"{url}#/c/conv_0" if view == "missing" else address)
    if view not in ("empty", "help", "missing"):
        expect(badges(page)).to_have_count(2)
        expect(page.locator(".hljs-keyword").first).to_be_attached()
    match view:
        case "receipt":
            badges(page).last.click()
        case "menu":
            opened = page.get_by_role("button", name="Show chats")
            if opened.is_visible():
                opened.click()
            page.locator(".session.is-current").hover()
            page.locator(".session.is-current").get_by_title("More").click()
            expect(page.locator(".menu")).to_be_visible()
        case "settings":
            page.get_by_role("button", name="Settings").click()
        case "help":
            page.keyboard.press("Escape")
            page.locator("body").evaluate("body => document.activeElement?.blur()")
            page.keyboard.press("?")
            expect(page.get_by_role("dialog")).to_be_visible()
        case "edit":
            page.get_by_role("button", name="Edit the message").last.click()
        case "found":
            page.keyboard.press("Control+k")
            page.get_by_role("searchbox").fill("paged")
            expect(page.get_by_text(re.compile(r"chats? found"))).to_be_visible()
        case "offline":
            page.context.set_offline(True)
            expect(page.get_by_text("This device is offline.")).to_be_visible()
        case "missing":
            expect(page.get_by_text("This chat does not exist any more.")).to_be_visible()
        case "notice":
            page.locator('input[type="file"]').set_input_files(
                files=[{"name": "x.json", "mimeType": "application/json", "buffer": b"{}"}]
            )
            expect(page.get_by_role("alert").get_by_text("holds no chat")).to_be_visible()


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core here: npm ci in web/")
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_every_view_is_fit_to_be_used_by_everybody(browser, rich, size, colours):
    url, address = rich
    phone = {"has_touch": True, "is_mobile": True} if size == "phone" else {}
    viewport = PHONE if size == "phone" else DESKTOP
    context = browser.new_context(
        viewport=viewport, color_scheme=colours, locale="en-GB", reduced_motion="reduce", **phone
    )
    found = {}
    for view in (*VIEWS, "login"):
        page = context.new_page()
        show(page, view, url, address)
        if wrong := axe(page):
            found[view] = wrong
        picture(page, f"{view}-{size}-{colours}")
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], view
        page.close()
        context.set_offline(False)
    context.close()
    assert found == {}


def test_a_picture_of_an_answer_being_written(browser, rich, complaints):
    url, _ = rich
    context = browser.new_context(viewport=DESKTOP, locale="en-GB")
    page = open_page(context, url, complaints)
    page.wire.asking = {"ignore_eos": True, "max_output_tokens": 300}
    send(page, "What is chatpager?")
    expect(page.locator(".pace")).to_contain_text("tok/s", timeout=ANSWERED)
    picture(page, "writing-desktop-light")
    context.close()


@pytest.mark.parametrize("locale", ["zh-TW", "zh-CN"])
def test_a_picture_in_chinese(browser, rich, locale):
    _, address = rich
    context = browser.new_context(viewport=DESKTOP, locale=locale)
    page = context.new_page()
    page.goto(address)
    expect(badges(page)).to_have_count(2)
    badges(page).last.click()
    picture(page, f"receipt-{locale}")
    context.close()


def test_the_pictures_of_the_readme(browser, rich):
    _, address = rich
    for size, colours, viewport in (("desktop", "light", DESKTOP), ("phone", "dark", {"width": 390, "height": 740})):
        context = browser.new_context(viewport=viewport, color_scheme=colours, locale="en-GB", device_scale_factor=1.5)
        page = context.new_page()
        page.goto(address)
        expect(page.locator(".hljs-keyword").first).to_be_attached()
        if size == "desktop":
            page.locator(".thread-scroll").evaluate("box => (box.scrollTop = 0)")
        else:
            badges(page).last.click()
        page.locator("h1").hover()
        picture(page, f"readme-{size}")
        context.close()


MEASURE = """() => {
    window.long = [];
    window.moved = 0;
    new PerformanceObserver((list) => window.long.push(...list.getEntries().map((entry) => Math.round(entry.duration))))
        .observe({ type: "longtask" });
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => (window.moved += entry.value)))
        .observe({ type: "layout-shift" });
}"""


LISTED = "".join(f"- item **{i}** has `code` and a few more words in it\n" for i in range(900))
PARAGRAPH = "A paragraph can go **on and on**, with `code` in it and a [link](https://example.test/docs) too. " * 620
CODED = "```python\n" + "    for item in things[1:]: yield call('<span>', 12)  # note\n" * 300 + "```\n\nDone.\n"
LONG_ANSWERS = {"blocks": (RICH + "\n\n") * 90, "list": LISTED, "code": CODED, "paragraph": PARAGRAPH}


@pytest.mark.parametrize("text", LONG_ANSWERS.values(), ids=LONG_ANSWERS)
def test_an_answer_of_10_000_tokens_comes_smoothly(page, browser, text):
    """Its last 400, at 200 a second, and its end: with what stands above them they are the hardest to draw."""
    page.wire.hold_after = "response.created"
    send(page, "What is chatpager?")
    while not page.wire.received:
        page.wait_for_timeout(20)
    pieces = re.findall(r"\S+\s*", text)
    heard = 0

    def tell(**event) -> None:
        page.wire.line.send(json.dumps({"item_id": "m", "output_index": 0, "sequence_number": heard, **event}))

    def say(count: int) -> None:
        nonlocal heard
        for piece in pieces[heard : heard + count]:
            heard += 1
            tell(type="response.output_text.delta", delta=piece)

    say(len(pieces) - 400)
    written = "n => document.querySelector('.message-assistant .message-text')?.textContent.length > n"
    page.wait_for_function(written, arg=len(text) / 2, timeout=ANSWERED)
    page.wait_for_timeout(1000)  # until it is drawn
    page.evaluate(MEASURE)
    browser.start_tracing(page=page, categories=["devtools.timeline", "disabled-by-default-devtools.timeline"])
    while heard < len(pieces):
        say(4)
        page.wait_for_timeout(20)
    response = page.wire.received[0]["response"]
    item = {"id": "m", "type": "message", "role": "assistant", "status": "completed"}
    item["content"] = [{"type": "output_text", "text": text}]
    heard += 1
    tell(type="response.completed", response={**response, "status": "completed", "output": [item]})
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=ANSWERED)
    if text == CODED:
        expect(page.locator(".hljs-comment")).to_have_count(300)
        assert page.locator(".code code").text_content() == text.partition("\n")[2].partition("```")[0]
    page.wait_for_timeout(300)  # what comes after its end
    busy = longest_task(browser.stop_tracing())
    long, moved = page.evaluate("[window.long, window.moved]")
    print(
        f"the last 400 of {heard} tokens: {busy:.0f} ms of one task at most; by the clock {long} ms; shift {moved:.4f}"
    )
    assert busy <= 75  # alone 12 to 50
    assert moved <= 0.1


def test_a_long_chat_is_opened_smoothly(page, browser):
    said = [text for answer in [RICH] * 90 + list(LONG_ANSWERS.values()) for text in ("Go on.", answer)]
    roles = ("user", "assistant")
    items = [{"type": "message", "role": roles[i % 2], "content": text} for i, text in enumerate(said)]
    made = page.request.post(page.url.split("#")[0] + "v1/conversations", data={"items": items}).json()["id"]
    browser.start_tracing(page=page, categories=["devtools.timeline", "disabled-by-default-devtools.timeline"])
    page.evaluate("id => (location.hash = `#/c/${id}`)", made)
    expect(page.locator(".message")).to_have_count(len(said), timeout=ANSWERED)
    expect(page.locator(".markdown li", has_text="item 0 has")).to_have_count(1)
    expect(page.locator(".message-assistant").last.locator("p > span a")).to_have_count(620)
    busy = longest_task(browser.stop_tracing())
    print(f"{len(said)} messages of {sum(map(len, said)):,} characters: {busy:.0f} ms of one task at most")
    assert busy <= 100  # at once it was 1,150


def test_the_page_is_there_at_once(browser, page_url):
    """What holds it up does so each time; a machine that is busy does not."""
    painted = [first_paint(browser, page_url)]
    while painted[-1] >= 2_000 and len(painted) < 5:
        painted.append(first_paint(browser, page_url))
    assert min(painted) < 2_000, painted  # promised: 1 s on a machine of one's own


def first_paint(browser, page_url):
    """Milliseconds until something of the page is there."""
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.goto(page_url)
    expect(field(page)).to_be_visible()
    page.wait_for_function('performance.getEntriesByName("first-contentful-paint").length')
    painted, size = page.evaluate(
        """() => [
            performance.getEntriesByName("first-contentful-paint")[0].startTime,
            performance.getEntriesByType("resource").reduce((sum, one) => sum + one.encodedBodySize, 0),
        ]"""
    )
    print(f"first paint after {painted:.0f} ms, {size} bytes")
    context.close()
    return painted
