"""Both pages of a server that has keys: who comes in by which, what they may do there, and how a login ends."""

import json
import re

import pytest

from tests.e2e.browsing import BROWSER, ENDLESS, PHONE, answers, ask, conversation, expect, field, picture
from tests.processes import clean_env, serving

pytestmark = BROWSER
REFUSED = "This key opens nothing here: it is mistyped, was revoked or has expired."


@pytest.fixture
def keys(fork_server, tmp_path):
    """Makes a key, or revokes one, in the database of the server under ``tmp_path``."""

    def run(*words: str) -> dict:
        process = fork_server("keys", *words, "--json", env=clean_env(tmp_path))
        assert process.wait() == 0, process.err.text
        return json.loads(process.out.whole())

    return run


def enter(page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()


def test_a_login_lets_both_pages_in_as_far_as_its_role_goes(browser, fork_server, keys, tmp_path, complaints):
    ann = [keys("create", "--tenant", "ann", "--role", "user") for _ in range(2)]
    looks = keys("create", "--tenant", "default", "--role", "read-only")
    with serving(fork_server, tmp_path, CHATPAGER_API_KEY="secret") as running:
        context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, locale="en-GB")
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        asked = []
        page.on("request", lambda request: asked.append(request.url.removeprefix(running.url)))
        page.goto(running.url)

        # Nothing is asked for before somebody is in, and the key stays nowhere.
        expect(page.get_by_role("heading", name="This server asks for a key")).to_be_visible()
        assert [path for path in asked if path.startswith("/v1")] == ["/v1/login"]
        enter(page, "wrong")
        expect(page.get_by_role("alert")).to_have_text(REFUSED)
        picture(page, "login-refused-phone")
        enter(page, ann[0]["key"])
        answer = ask(page, "My name is Ada.")
        assert page.evaluate("document.cookie") == ""
        assert ann[0]["key"] not in page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")

        # A key that is revoked takes the page back to the login, and nothing that was written.
        field(page).fill("half a thought")
        chat = conversation(page)
        keys("revoke", ann[0]["id"])
        expect(page.get_by_text("The login has ended.")).to_be_visible()
        expect(answers(page)).to_have_count(0)
        enter(page, ann[1]["key"])
        expect(field(page)).to_have_value("half a thought")
        expect(answers(page)).to_have_text([answer])
        assert conversation(page) == chat

        # The admin page is for others, and for who may only look there is nothing to change.
        page.goto(f"{running.url}/admin#/leases")
        expect(page.get_by_role("alert")).to_contain_text("a key of role user does not open this page")
        enter(page, looks["key"])
        expect(page.locator(".feed")).to_have_text("Live")
        expect(page.get_by_label("Filter")).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("Pin"))).to_have_count(0)
        page.goto(f"{running.url}/admin#/tenants")
        expect(page.locator("tbody tr", has_text="ann")).to_contain_text("open")
        expect(page.get_by_role("button", name=re.compile("(Pause|Limits) "))).to_have_count(0)
        page.goto(f"{running.url}/admin#/config")
        expect(page.get_by_text("num_kv_blocks").first).to_be_visible()
        expect(page.get_by_role("button", name="Drain the server")).to_have_count(0)
        page.get_by_role("link", name="Chat", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("a key of role read-only does not open this page")
        page.get_by_role("link", name="Go to the admin page").click()
        page.get_by_role("button", name="Log out").click()

        # Who logs out leaves nothing behind.
        enter(page, "secret")
        expect(page.locator(".feed")).to_have_text("Live")
        page.goto(running.url)
        expect(field(page)).to_have_value("")
        field(page).fill("another thought")
        page.get_by_role("button", name="Settings").click()
        expect(page.get_by_text("Logged in as admin of default")).to_be_visible()
        picture(page, "login-settings-phone")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("API key")).to_be_visible()
        assert page.evaluate("Object.keys(localStorage)") == []

        acts_of_an_admin(page, running.url, chat, ann[1]["id"])
        assert complaints == []
        context.close()


def acts_of_an_admin(page, url: str, chat: str, key: str) -> None:
    """What the admin page does is written down, the end of the server too."""
    page.goto(f"{url}/admin#/leases")
    enter(page, "secret")
    expect(page.locator(".feed")).to_have_text("Live")
    page.goto(f"{url}/admin#/tenants")
    page.get_by_role("button", name="Pause ann").click()
    page.get_by_role("button", name="Resume ann").click()
    ours = {"X-Chatpager-Page": "1"}
    page.request.put(f"{url}/v1/admin/keys/{key}/limits", data={"requests_per_minute": 90}, headers=ours)
    page.get_by_role("button", name="Keys with limits of their own").click()
    page.get_by_role("button", name=f"Limits of {key}").click()
    expect(page.get_by_label("Requests a minute")).to_have_value("90")
    page.get_by_label("Tokens a minute").fill("50000")
    picture(page, "limits-phone")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.locator("tbody tr", has_text=key)).to_contain_text("50K of 50K left")
    page.goto(f"{url}/admin#/leases")
    page.get_by_label("Tenant").fill("ann")
    page.get_by_label("Conversation").fill(chat)
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(page.locator("tbody tr", has_text=chat)).to_contain_text("pinned")
    page.goto(f"{url}/admin#/session/ann/{chat}")
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.get_by_text("My name is Ada.")).to_have_count(0)
    page.get_by_role("button", name="Reveal what was said").click()
    expect(page.get_by_text("My name is Ada.")).to_be_visible()
    picture(page, "revealed-phone")
    turn = page.locator(".turn-id").inner_text()
    page.goto(f"{url}/admin#/requests")
    long = {"input": "Tell me a story.", "background": True, "ignore_eos": True, "max_output_tokens": ENDLESS}
    running = page.request.post(f"{url}/v1/responses", data=long, headers=ours).json()["id"]
    page.get_by_role("button", name=f"Cancel {running}").click()
    expect(page.get_by_role("button", name=f"Cancel {running}")).to_have_count(0)
    page.goto(f"{url}/admin#/config")
    page.get_by_role("button", name="Drain the server").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain the server").click()
    expect(page.get_by_role("button", name="The server is draining.")).to_be_visible()
    expect(page.locator(".feed")).to_have_text("The server is draining.")
    acts = page.request.get(f"{url}/v1/admin/audit").json()["data"]
    assert [(act["key"], act["action"], act["target"]) for act in acts[7::-1]] == [
        ("own", "tenant.paused", "ann"),
        ("own", "tenant.resumed", "ann"),
        ("own", "key.limited", key),
        ("own", "key.limited", key),
        ("own", "conversation.pinned", f"ann/{chat}"),
        ("own", "turn.revealed", turn),
        ("own", "response.cancelled", running),
        ("own", "server.drained", ""),
    ]
