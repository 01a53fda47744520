"""The admin page in a real Chromium, against a real server: its numbers, its acts, and how it looks.

Screenshots of every view, at both sizes and in both themes, are left in ``test-output/admin``.
"""

import csv
import io
import json
import re
import shutil
import struct
import urllib.request

import pytest

from tests.e2e.browsing import ENDLESS, longest_task
from tests.processes import ROOT, serving

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
CHROMIUM = shutil.which("chromium")
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
SHOTS = ROOT / "test-output" / "admin"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]

WIDER_TABLES = """[...document.querySelectorAll('.table-box')].filter(box => box.scrollWidth > box.clientWidth)
    .map(box => [box.ariaLabel, box.scrollWidth, box.clientWidth])"""
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
VIEWS = ["overview", "reuse", "blocks", "leases", "requests", "tenants", "session", "config"]


def call(server, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def respond(server, said, conversation, **more):
    body = {"input": said, "conversation": conversation, "max_output_tokens": 12, **more}
    return call(server, "POST", "/v1/responses", body)


@pytest.fixture(scope="module")
def server(fork_server, tmp_path_factory):
    """One of its own: what others ask would move the figures."""
    with serving(fork_server, tmp_path_factory.mktemp("admin"), "--num-kv-blocks", "400") as running:
        yield running


@pytest.fixture(scope="module")
def conversations(server):
    """Three that were spoken in, two of them from the same beginning; the first is pinned."""
    made = []
    beginning = "You are a careful librarian. Say where a book stands, and nothing else. " * 4
    for i in range(3):
        conversation = call(server, "POST", "/v1/conversations", {})["id"]
        instructions = {"instructions": beginning} if i < 2 else {}
        for said in ("My name is Ada.", "What is my name?", "What is chatpager?"):
            respond(server, said, conversation, **instructions)
        made.append(conversation)
    call(server, "PUT", f"/v1/admin/sessions/default/{made[0]}/pin", {"ttl": 3600})
    return made


@pytest.fixture
def open_page(browser, server, conversations):
    """A page at a view; what it complained of in the console fails the test."""
    contexts, complaints = [], []

    def open(view="overview", *, size="desktop", theme="light", **more):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, accept_downloads=True, **more
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"{server.url}/admin#/{view}")
        expect(page.locator(".feed")).to_have_text(re.compile("Live|即時|实时"))
        return page

    yield open
    for context in contexts:
        context.close()
    assert complaints == []


def shown(number):
    return f"{number:,}"


def test_the_overview_equals_the_receipts_and_the_metrics(open_page, server):
    page = open_page()
    told = call(server, "GET", "/v1/admin/snapshot")
    total = told["windows"][0]
    assert total["turns"] == 9 and total["hit_tokens"] > 0
    card = page.locator(".section", has=page.locator("#hit-rate")).locator(".card").last
    expect(card.locator("h3")).to_have_text("Since the start")
    expect(card.locator("dd").first).to_have_attribute("title", shown(total["hit_tokens"]))
    expect(card.locator(".figure-main")).to_have_text(
        f"{round(100 * total['hit_tokens'] / total['attainable_tokens'])}%"
    )
    with urllib.request.urlopen(server.url + "/metrics") as answer:
        counted = dict(re.findall(r"^(chatpager_\S+) (\S+)$", answer.read().decode(), re.MULTILINE))
    hit = sum(float(counted[f'chatpager_prompt_tokens_total{{source="{s}"}}']) for s in ("device", "host", "disk"))
    assert (hit, float(counted["chatpager_attainable_tokens_total"])) == (
        total["hit_tokens"],
        total["attainable_tokens"],
    )


def test_a_turn_is_shown_within_a_second_and_not_while_paused(open_page, server, conversations):
    page = open_page()
    turns = page.locator(".figure").nth(3).locator("dd").nth(1)
    before = int(turns.inner_text().replace(",", "").split()[0])
    respond(server, "And again?", conversations[2])
    expect(turns).to_have_text(re.compile(f"^{before + 1}"))
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".feed")).to_have_text("Paused")
    respond(server, "And again?", conversations[2])
    page.wait_for_timeout(1500)
    expect(turns).to_have_text(re.compile(f"^{before + 1}"))
    page.get_by_role("button", name="Go on").click()
    expect(turns).to_have_text(re.compile(f"^{before + 2}"))


def test_the_table_is_sorted_filtered_linked_to_and_downloaded(open_page, conversations):
    page = open_page("reuse")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(3)
    page.get_by_role("searchbox", name="Filter").fill(conversations[1])
    expect(rows).to_have_count(1)
    page.reload()
    expect(rows).to_have_count(1)
    page.get_by_role("searchbox", name="Filter").fill("")
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Prompt tokens").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text(re.compile("Prompt tokens"))
    with page.expect_download() as downloading:
        page.get_by_role("button", name="CSV").click()
    told = list(csv.DictReader(io.StringIO(downloading.value.path().read_bytes().decode(), newline="")))
    sizes = [int(row["prompt"]) for row in told]
    assert len(told) == 3 and sizes == sorted(sizes, reverse=True)
    assert {row["session"] for row in told} == set(conversations)
    for name in ("Tenants", "Shared prefixes"):
        page.get_by_role("button", name=name).click()
        expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")


def test_a_conversations_timeline_is_linked_to_and_says_no_word(open_page, conversations):
    page = open_page("reuse")
    page.get_by_role("link", name=conversations[0]).click()
    expect(page).to_have_url(re.compile(f"#/session/default/{conversations[0]}$"))
    expect(page.locator(".turn")).to_have_count(3)
    assert "Ada" not in page.locator("main").inner_text() and "librarian" not in page.locator("main").inner_text()
    page.reload()
    expect(page.locator(".turn")).to_have_count(3)


def test_a_timeline_says_where_a_prompt_left_the_turn_before_it(open_page, server, conversations):
    respond(server, "And now?", conversations[2], instructions="You know ships.", chatpager={"explain": True})
    page = open_page(f"session/default/{conversations[2]}")
    why = page.locator(".turn", has=page.locator(".turn-why")).last.locator(".turn-why")
    expect(why).to_contain_text("They part in message 1")
    page.screenshot(path=SHOTS / "broken.png")


def test_the_map_tells_of_a_block_that_is_pointed_at(open_page, server):
    page = open_page("blocks")
    canvas = page.locator("canvas.map")
    total = call(server, "GET", "/v1/admin/snapshot")["engine"]["blocks"]["total"]
    expect(canvas).to_have_attribute("aria-label", re.compile(f"^{total} KV blocks"))
    counts = [int(text.replace(",", "")) for text in page.locator(".legend-blocks b").all_inner_texts()]
    assert sum(counts) == total
    number, panel = page.get_by_role("spinbutton", name="Number"), page.locator(".panel")
    canvas.hover(position={"x": 4, "y": 4})  # the first cell
    expect(number).to_have_value("1")
    block = call(server, "GET", "/v1/admin/blocks/1")
    pairs = dict(zip(panel.locator("dt").all_inner_texts(), panel.locator("dd").all_inner_texts(), strict=True))
    assert (pairs["Hash"], pairs["Held by"], pairs["Hits"]) == (block["hash"], f"{block['refs']:,}", str(block["hits"]))
    assert pairs["State"].strip() == {"hard": "pinned", "soft": "soft lease", "shared": "in use"}[block["code"]]
    assert re.fullmatch(r"[\d.,]+ \w+", pairs["Unused for"])
    assert all(one["id"] in pairs["Conversations"] for one in block["sessions"])
    number.fill(str(total + 1))
    number.press("Enter")
    assert number.evaluate("box => box.validationMessage") and panel.locator("dd").count() > 0
    number.fill("1")
    number.press("Enter")
    expect(page.locator(".panel dd").first).to_be_visible()
    page.locator(".tree-run").first.click()
    expect(page.locator(".panel").first).to_contain_text("Held by")
    assert page.locator(".tree-run").count() >= 2


def test_pins_are_listed_with_their_time_left_and_can_be_taken_away(open_page, server, conversations):
    page = open_page("leases")
    row = page.locator("tbody tr", has_text=conversations[0])
    expect(row).to_contain_text("pinned")
    page.get_by_label("Conversation").fill(conversations[1])
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(page.locator("tbody tr", has_text=conversations[1])).to_contain_text("pinned")
    page.locator("tbody tr", has_text=conversations[1]).get_by_role("button", name="Unpin").click()
    expect(page.get_by_text(f"{conversations[1]} is not pinned any more.")).to_be_visible()
    leases = call(server, "GET", f"/v1/conversations/{conversations[1]}/cache")["leases"]
    assert [lease for lease in leases if lease["strength"] == "hard"] == []


def test_what_was_said_is_shown_when_it_is_asked_for(open_page, server, conversations):
    page = open_page(f"session/default/{conversations[0]}")
    turn = page.locator(".turn").first
    expect(turn).to_be_visible()
    expect(page.get_by_text("My name is Ada.")).to_have_count(0)
    turn.get_by_role("button", name="Reveal what was said").click()
    expect(turn.get_by_text("My name is Ada.")).to_be_visible()
    page.screenshot(path=SHOTS / "revealed.png")
    turn.get_by_role("button", name="Hide it").click()
    expect(page.get_by_text("My name is Ada.")).to_have_count(0)


def test_a_running_turn_shows_its_progress_and_is_cancelled(open_page, server):
    page = open_page("requests")
    expect(page.get_by_text("No turn is running.")).to_be_visible()
    long = {"input": "Tell me a story.", "background": True, "ignore_eos": True, "max_output_tokens": ENDLESS}
    running = call(server, "POST", "/v1/responses", long)["id"]
    request = page.locator(".request", has_text=running)
    expect(request).to_be_visible()
    request.get_by_role("button", name=f"Cancel {running}").click()
    expect(request).to_have_count(0)
    assert call(server, "GET", f"/v1/responses/{running}")["status"] == "cancelled"


def test_a_tenant_is_limited_paused_and_resumed(open_page, server):
    page = open_page("tenants")
    row = page.locator("tbody tr", has_text="default")
    [before] = call(server, "GET", "/v1/admin/tenants")["data"]
    expect(row.locator("td").nth(2)).to_have_text(str(before["conversations"]))
    row.get_by_role("button", name="Limits of default").click()
    dialog = page.get_by_role("dialog", name="Limits of default")
    expect(dialog.get_by_label("Weight")).to_have_attribute("placeholder", "as the settings say: 1")
    page.screenshot(path=SHOTS / "limits.png")
    dialog.get_by_label("Conversations at most").fill("500")
    dialog.get_by_label("Weight").fill("5")
    dialog.get_by_role("button", name="Set").click()
    expect(page.get_by_text("The limits of default are in force.")).to_be_visible()
    expect(row.locator("td").nth(2)).to_have_text(f"{before['conversations']} of 500")
    [told] = call(server, "GET", "/v1/admin/tenants")["data"]
    none = {"requests_per_minute": None, "tokens_per_minute": None}
    assert (told["own"], told["weight"]) == ({**none, "max_conversations": 500, "weight": 5}, 5)
    row.get_by_role("button", name="Limits of default").click()
    expect(dialog.get_by_label("Conversations at most")).to_have_value("500")
    dialog.get_by_label("Conversations at most").fill("")
    dialog.get_by_label("Weight").fill("")
    dialog.get_by_role("button", name="Set").click()
    expect(row.locator("td").nth(2)).to_have_text(str(before["conversations"]))
    row.get_by_role("button", name="Pause default").click()
    expect(row).to_contain_text("paused")
    row.get_by_role("button", name="Resume default").click()
    expect(row).to_contain_text("open")
    assert call(server, "GET", "/v1/admin/tenants")["data"] == [before]


def test_settings_show_where_they_came_from(open_page):
    page = open_page("config")
    row = page.locator("tr", has=page.locator("code", has_text=re.compile("^num_kv_blocks$")))
    expect(row).to_contain_text("400")
    expect(row).to_contain_text("--num-kv-blocks")
    page.get_by_role("button", name="Drain the server").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_role("button", name="No").click()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_same_can_be_asked_on_a_command_line(open_page, server):
    page = open_page("leases")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f"curl '{server.url}/v1/admin/leases'"


@pytest.mark.parametrize(("language", "tab"), [("zh-TW", "總覽"), ("zh-CN", "总览"), ("en-GB", "Overview")])
def test_it_speaks_the_readers_language(open_page, language, tab):
    page = open_page(locale=language)
    expect(page.get_by_role("link", name=tab)).to_have_attribute("aria-current", "page")


FRAMES = """() => {
  window.gaps = [];
  let last = performance.now();
  const next = () => {
    const now = performance.now();
    window.gaps.push(now - last);
    last = now;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
}"""
POINTED_AT = 300
"""Places of the map the pointer goes over, some seconds in all."""


def test_a_hundred_thousand_blocks_are_drawn_smoothly(open_page, browser, server, record_property):
    """Five thousand of them change with every answer, and the pointer goes over them. Alone on a machine::

    pytest --no-cov -s tests/e2e/test_admin_page.py -k hundred_thousand
    """
    total, stamp = 100_000, 0
    block = call(server, "GET", "/v1/admin/blocks/1")

    def told(route):
        nonlocal stamp
        stamp += 1
        whole = stamp == 1
        ids = range(1, total + 1) if whole else range(1 + stamp * 17 % 90_000, 5001 + stamp * 17 % 90_000)
        body = struct.pack("<5I", stamp, 7, total, len(ids), whole)
        body += b"" if whole else struct.pack(f"<{len(ids)}I", *ids)
        body += struct.pack(f"<{len(ids)}I", *(i - 1 if i % 50 else 0 for i in ids))
        route.fulfill(body=body + bytes((i + stamp) % 9 for i in ids), content_type="application/octet-stream")

    page = open_page("requests")
    page.route("**/v1/admin/blocks?*", told)
    page.route(
        "**/v1/admin/blocks/*", lambda route: route.fulfill(json={**block, "id": int(route.request.url.split("/")[-1])})
    )
    page.goto(page.url.split("#")[0] + "#/blocks")
    canvas = page.locator("canvas.map")
    expect(canvas).to_have_attribute("aria-label", re.compile("^100,000"))
    box = canvas.bounding_box()
    browser.start_tracing(page=page, categories=["devtools.timeline", "disabled-by-default-devtools.timeline"])
    page.evaluate(FRAMES)
    page.wait_for_timeout(500)
    alone = sorted(page.evaluate("window.gaps.splice(0)"))  # before the pointer moves
    updates = stamp
    for step in range(POINTED_AT):
        x, y = box["x"] + 5 + 7 * step % (box["width"] - 10), box["y"] + 5 + 11 * step % 500
        page.mouse.move(x, y)
        page.wait_for_timeout(10)
    gaps = sorted(page.evaluate("window.gaps"))
    busy = longest_task(browser.stop_tracing())
    expect(page.get_by_role("spinbutton", name="Number")).not_to_have_value("")  # of where the pointer stopped
    assert stamp - updates >= 3
    median, late = gaps[len(gaps) // 2], gaps[len(gaps) * 95 // 100]
    record_property("median_frame_ms", median)
    record_property("longest_task_ms", busy)
    print(
        f"100,000 cells, {stamp - updates} updates, {len(gaps)} frames: median {median:.1f} ms, 95% {late:.1f} ms, "
        f"longest {gaps[-1]:.1f} ms; one task took {busy:.1f} ms of the processor at most"
    )
    usual = alone[len(alone) // 2] if alone else 500.0  # tests run beside this; by itself it is 16.7 ms
    assert median < max(100, 3 * usual)  # by itself on two cores 16.7 ms, 17.9 of 95 %
    assert busy <= 25  # alone 9.8


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_accessible_fits_and_is_photographed(open_page, conversations, view, size, theme):
    route = f"session/default/{conversations[0]}" if view == "session" else view
    page = open_page(route, size=size, theme=theme)
    expect(page.locator(".section").first).to_be_visible()
    settled = {"overview": ".plot-area", "blocks": ".tree-run", "session": ".turn"}.get(
        view, "main :is(tbody tr, .section)"
    )
    expect(page.locator(settled).first).to_be_visible()
    page.wait_for_timeout(400)
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{view}-{size}-{theme}.png")
    for part in ("now", "tiers") if view == "overview" else ():
        page.locator(f"#{part}").evaluate("head => head.scrollIntoView()")
        page.screenshot(path=SHOTS / f"{view}-{part}-{size}-{theme}.png")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the screen"
    if size == "desktop":
        assert page.evaluate(WIDER_TABLES) == []
    if not AXE.is_file():
        pytest.skip("NOT CHECKED FOR ACCESSIBILITY: axe-core is not installed (npm ci in web)")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    told = [
        (v["id"], v["help"], [n["html"][:120] + " " + n["failureSummary"][:200] for n in v["nodes"][:3]])
        for v in found["violations"]
    ]
    assert told == []
