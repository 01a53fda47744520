"""A model that says what it should not: nothing of it runs, and nothing is asked of anybody else."""

import json

import pytest

from tests.e2e.browsing import BROWSER, answers, expect, open_page, send

pytestmark = BROWSER

HANDLERS = ("onerror", "onload", "onclick", "onmouseover", "onfocus", "ontoggle", "onanimationstart", "onpointerenter")
TAGS = (
    "img src=x",
    "svg",
    "body",
    "input autofocus",
    "details open",
    "video src=x",
    "iframe src=x",
    "object data=x",
    "style",
)
ADDRESSES = (
    "javascript:BAD()",
    "JaVaScRiPt:BAD()",
    "java\tscript:BAD()",
    "&#106;avascript:BAD()",
    "data:text/html,<script>BAD()</script>",
    "vbscript:BAD()",
    "//elsewhere.test/x",
    "https://elsewhere.test/x.png",
)
WHOLE = (
    "<script>BAD()</script>",
    "<script src=https://elsewhere.test/x.js></script>",
    "<link rel=stylesheet href=https://elsewhere.test/x.css>",
    "<meta http-equiv=refresh content='0;url=https://elsewhere.test'>",
    "<base href=https://elsewhere.test/>",
    "<form action=https://elsewhere.test><button>go</button></form>",
    "<style>@import 'https://elsewhere.test/x.css';</style>",
    "<math><mtext><table><mglyph><style><img src=x onerror=BAD()>",
    "<svg><animate onbegin=BAD() attributeName=x dur=1s>",
    "<template><script>BAD()</script></template>",
    "```html\n<script>BAD()</script>\n```",
    "```<img src=x onerror=BAD()>\ncode\n```",
    "| a |\n| - |\n| <img src=x onerror=BAD()> |",
    "[x]: javascript:BAD()\n\n[click][x]",
    '![x](https://elsewhere.test/x.png "title" onerror=BAD())',
    "<https://elsewhere.test/x.png>",
    "`<script>BAD()</script>`",
    "$\\require{html}\\href{javascript:BAD()}{x}$",
    '<noscript><p title="</noscript><img src=x onerror=BAD()>">',
)
PAYLOADS = [
    *WHOLE,
    *(f"<{tag} {handler}=BAD()>" for tag in TAGS for handler in HANDLERS),
    *(shape.format(address) for address in ADDRESSES for shape in ("[click]({})", "![see]({})")),
]


def test_there_are_a_hundred():
    assert len(PAYLOADS) >= 100
    assert len(set(PAYLOADS)) == len(PAYLOADS)


@pytest.fixture
def watched(browser, page_url, complaints):
    """A page that would tell of a script that runs, a request to anybody else and a policy that was broken."""
    context = browser.new_context(locale="en-GB")
    page = open_page(context, page_url, complaints)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.evaluate(
        """() => {
            window.ran = 0;
            window.BAD = window.alert = () => (window.ran += 1);
            window.broken = [];
            document.addEventListener("securitypolicyviolation", (event) => window.broken.push(event.blockedURI));
        }"""
    )
    yield page
    context.close()


def harmless(page, page_url) -> None:
    for element in page.locator(".markdown *").all()[:40]:
        element.dispatch_event("mouseover")
    assert page.evaluate("[window.ran, window.broken]") == [0, []]
    assert [url for url in page.asked if not url.startswith((page_url, page_url.replace("http", "ws")))] == []
    found = page.locator(".markdown :is(script, img, svg, iframe, object, style, link, form, input, video, [style])")
    assert found.count() == 0
    handlers = "els => els.flatMap(el => el.getAttributeNames()).filter(name => name.startsWith('on'))"
    assert page.locator(".markdown *").evaluate_all(handlers) == []
    addresses = page.locator(".markdown a").evaluate_all("links => links.map(link => link.protocol)")
    assert set(addresses) <= {"http:", "https:", "mailto:"}
    told = page.locator(".markdown a").evaluate_all("links => links.map(link => link.target + ' ' + link.rel)")
    assert set(told) == {"_blank noopener noreferrer nofollow"}


def test_nothing_that_was_said_runs_when_it_is_read_again(watched, page_url, complaints):
    items = [{"type": "message", "role": "assistant", "content": payload} for payload in PAYLOADS]
    made = watched.request.post(page_url + "v1/conversations", data={"items": items}).json()
    watched.evaluate("id => (location.hash = '#/c/' + id)", made["id"])
    expect(answers(watched)).to_have_count(len(PAYLOADS))
    harmless(watched, page_url)
    assert complaints == []


def test_nothing_that_is_being_said_runs(watched, page_url, complaints):
    watched.wire.hold_after = "response.created"
    send(watched, "What is chatpager?")
    while not watched.wire.received:
        watched.wait_for_timeout(20)
    for number, payload in enumerate(PAYLOADS, 1):
        for half, piece in enumerate((payload[: len(payload) // 2], payload[len(payload) // 2 :] + "\n\n")):
            delta = {"type": "response.output_text.delta", "item_id": "msg_x", "output_index": 0, "delta": piece}
            watched.wire.line.send(json.dumps({**delta, "sequence_number": 2 * number + half}))
    watched.wire.line.send(json.dumps({**delta, "delta": "That was all.", "sequence_number": 2 * len(PAYLOADS) + 2}))
    expect(answers(watched)).to_contain_text("That was all.")
    harmless(watched, page_url)
    assert complaints == []
