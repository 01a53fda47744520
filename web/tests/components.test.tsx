// @vitest-environment happy-dom
import { render } from "preact";
import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Api } from "../src/api";
import { Chat } from "../src/chat";
import { Announcer } from "../src/components/Announcer";
import { App } from "../src/components/App";
import { EditMessage } from "../src/components/EditMessage";
import { Message } from "../src/components/Message";
import { ChatContext } from "../src/components/context";
import { Drafts } from "../src/drafts";
import { Unsent } from "../src/unsent";
import { Lines } from "../src/lines";
import { Login } from "../src/login";
import { KeptWishes } from "../src/wishes";
import { fromItems } from "../src/stored";
import { type Message as MessageData, apply, begin, emptyThread, lose, refuse } from "../src/turns";
import { answerEvents, cache, item, timings, usage } from "./server";
import type { Conversation } from "../src/wire";
import { words } from "../src/words";
import { memoryStorage } from "./storage";

let chat: Chat;
let loginAnswer: (url: string, init?: RequestInit) => Response;
let place: HTMLElement;
beforeEach(() => {
  place = document.createElement("div");
  document.body.append(place);
  const { storage } = memoryStorage();
  const api = new Api("http://here/", async (url, init) => loginAnswer(String(url), init));
  chat = new Chat({
    api,
    login: new Login(api, ["user", "admin"]),
    lines: new Lines({ url: "ws://here/" }),
    drafts: new Drafts(() => storage),
    unsent: new Unsent(() => storage),
    wishes: new KeptWishes(() => storage),
    navigate: () => undefined,
  });
});
afterEach(() => {
  act(() => render(null, place));
  place.remove();
});

function draw(what: preact.ComponentChild) {
  act(() => render(<ChatContext.Provider value={chat}>{what}</ChatContext.Provider>, place));
}
const find = <T extends Element>(selector: string) => place.querySelector<T>(selector) as T;
const finished = (own: Partial<MessageData>): MessageData => ({
  ...fromItems("conv_1", [item("msg_1", "assistant", "Hello")], null).messages[0]!,
  ...own,
});

/** Opens a conversation that stands as `thread` does, without a server. */
function open(thread = emptyThread("conv_1", "ready")) {
  act(() => {
    chat.store.put(thread);
    chat.store.currentId.value = thread.id;
  });
}

describe("a message", () => {
  it("of a person is text and never markup", () => {
    const text = "<img src=x onerror=alert(1)> **bold**\n  indented";
    draw(<Message message={finished({ role: "user", text })} />);
    expect(find(".message-text").textContent).toBe(text);
    expect(place.querySelector("img")).toBeNull();
  });

  it("of the model is Markdown, and HTML in it is text", () => {
    draw(<Message message={finished({ text: "<img src=x onerror=alert(1)> **bold**" })} />);
    expect(find(".message-text").textContent?.trim()).toBe("<img src=x onerror=alert(1)> bold");
    expect(find("strong").textContent).toBe("bold");
    expect(place.querySelector("img")).toBeNull();
  });

  it("shows its badge, and in it the receipt in words", () => {
    draw(<Message message={finished({ receipt: { usage, cache, timings } })} />);
    expect(find(".badge").textContent).toBe("warmcached 128 / 152 tokens · 84 ms to first token · 63 tok/s");
    expect(find(".badge").getAttribute("title")).toBe("Everything that could be reused was.");
    expect([...place.querySelectorAll("dt")].map((one) => one.textContent)).toEqual(["Prompt", "Reuse", "Answer", "Time"]);
    expect([...place.querySelectorAll("rect")].map((one) => one.getAttribute("width"))).toEqual(["128", "24"]);
  });

  it.each([
    ["cancelled", "Stopped."],
    ["interrupted", "Interrupted. The server stopped before this answer was finished."],
    ["failed", "Failed. This answer was not finished."],
    ["unfinished", "This answer was not finished."],
    ["incomplete", "Cut short: the answer reached its limit on tokens."],
  ] as const)("that is %s says so", (state, note) => {
    draw(<Message message={finished({ state })} />);
    expect(find(".message-note").textContent).toBe(note);
  });

  it("that was stopped before its first word can be given again, and has nothing to go on with", () => {
    open(emptyThread("conv_1", "ready"));
    draw(<Message message={finished({ state: "cancelled", text: "" })} />);
    expect([...place.querySelectorAll(".actions button")].map((one) => one.getAttribute("aria-label"))).toEqual(["Regenerate"]);
  });

  it("that failed gives the server's reason", () => {
    draw(<Message message={finished({ state: "failed", error: "It broke." })} />);
    expect(find(".message-note").textContent).toBe("Failed: It broke.");
  });

  it("that is lost says that it is being read", () => {
    const thread = lose(answerEvents("resp_1", ["Hel"]).slice(0, 2).reduce(apply, begin(emptyThread("conv_1", "ready"), "Hi", "turn-1")));
    draw(<Message message={thread.messages[1]!} />);
    expect(find(".note-lost").textContent).toContain("Reading the answer from the server");
  });

  it("shows how far its prompt is read", () => {
    draw(<Message message={finished({ text: "", state: "in_progress", prefill: { done: 512, total: 2048, cached: 128 } })} />);
    expect([find<HTMLProgressElement>("progress").value, find<HTMLProgressElement>("progress").max]).toEqual([512, 2048]);
    expect(find(".prefill").textContent).toBe("Reading the prompt: 512 of 2,048 tokens, 128 from the cache");
  });

  it("of a person that would fill the page is shown as far as it is wanted", () => {
    const text = "word ".repeat(1_001);
    draw(<Message message={finished({ role: "user", text })} />);
    expect(find(".message-text").textContent).toBe(`${text.slice(0, 3_000)}…`);
    act(() => find<HTMLButtonElement>(".message-whole").click());
    expect([find(".message-text").textContent, find(".message-whole")]).toEqual([text, null]);
  });

  it("that was refused says why and offers to go on", () => {
    const thread = refuse(begin(emptyThread("conv_1", "ready"), "Hi", "turn-1"), "The queue is full.");
    open(thread);
    draw(<Message message={thread.messages[0]!} />);
    expect(find("[role=alert]").textContent).toContain("Not sent: The queue is full.");
    act(() => place.querySelectorAll<HTMLButtonElement>(".text-button")[1]!.click());
    expect([chat.store.draft.value, chat.store.thread.value?.messages]).toEqual(["Hi", []]);
  });
});

describe("the field", () => {
  const key = (init: KeyboardEventInit) => {
    const event = new KeyboardEvent("keydown", { bubbles: true, cancelable: true, ...init });
    act(() => void find<HTMLTextAreaElement>("#message").dispatchEvent(event));
    return event.defaultPrevented;
  };

  it("sends on Enter, and on nothing that is not Enter alone", () => {
    draw(<App />);
    const send = vi.spyOn(chat, "send").mockResolvedValue();
    act(() => chat.write("你好"));
    expect(key({ key: "Enter", isComposing: true })).toBe(false);
    expect(key({ key: "Enter", keyCode: 229 })).toBe(false);
    expect(key({ key: "Enter", shiftKey: true })).toBe(false);
    expect(key({ key: "a" })).toBe(false);
    expect(send).not.toHaveBeenCalled();
    expect(key({ key: "Enter" })).toBe(true);
    expect(send).toHaveBeenCalledExactlyOnceWith("你好");
  });

  it("takes no more than it can hold without holding the page up, and says so", () => {
    draw(<App />);
    act(() => chat.write("kept"));
    const paste = (size: number, into = "#message") => {
      const event = new InputEvent("beforeinput", { bubbles: true, cancelable: true, data: "x".repeat(size) });
      act(() => void find(into).dispatchEvent(event));
      return event.defaultPrevented;
    };
    expect([paste(9_996), find("#message").getAttribute("dir")]).toEqual([false, "auto"]);
    expect([paste(999_996), chat.store.notice.value, find("#message").getAttribute("dir")]).toEqual([false, null, null]);
    expect(paste(999_997)).toBe(true);
    expect(find("[role=alert]").textContent).toContain("999,997 characters are too many, a message has at most 1,000,000.");
    expect(chat.store.draft.value).toBe("kept");
    draw(<EditMessage message={finished({ role: "user" })} index={0} asked onDone={() => undefined} />);
    expect(paste(1_000_000, ".edit textarea")).toBe(true);
  });

  it("keeps a message that was said otherwise until it is on its way", async () => {
    const done = vi.fn();
    draw(<EditMessage message={finished({ role: "user" })} index={0} asked onDone={done} />);
    find<HTMLTextAreaElement>(".edit textarea").value = "Another";
    const branch = vi.spyOn(chat, "branch").mockResolvedValueOnce(false).mockResolvedValueOnce(true);
    const enter = () => find(".edit textarea").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
    await act(async () => void enter());
    expect([branch.mock.calls.length, done.mock.calls.length]).toEqual([1, 0]);
    await act(async () => void enter());
    expect([branch.mock.calls.length, done.mock.calls.length]).toEqual([2, 1]);
  });

  it("of a message that is said otherwise keeps what is written while other chats are looked at", () => {
    open();
    const message = finished({ role: "user", text: "Hi" });
    draw(<Message key={message.key} message={message} index={2} />);
    act(() => find<HTMLButtonElement>(`[aria-label="${words.editMessage}"]`).click());
    const area = () => find<HTMLTextAreaElement>(".edit textarea");
    area().value = "Hi\nthere";
    act(() => void area().dispatchEvent(new InputEvent("input", { bubbles: true })));
    draw(<Message key="other" message={finished({ role: "user", text: "Other" })} index={1} />);
    expect(area()).toBeNull();
    draw(<Message key={message.key} message={message} index={2} />);
    expect(area().value).toBe("Hi\nthere");
    act(() => find<HTMLButtonElement>(".edit .button").click());
    draw(<Message key="again" message={message} index={2} />);
    expect(area()).toBeNull();
  });

  it("has a stop button and a stop key while an answer is written", () => {
    open(begin(emptyThread("conv_1", "ready"), "Hi", "turn-1"));
    draw(<App />);
    const stop = vi.spyOn(chat, "stop");
    act(() => find<HTMLButtonElement>(".stop").click());
    key({ key: "Escape" });
    expect(stop).toHaveBeenCalledTimes(2);
    expect(find<HTMLButtonElement>(".stop").disabled).toBe(true);
    expect(find(".stop").textContent).toBe("Stopping…");
  });

  it("leaves Esc alone when nothing is written", () => {
    draw(<App />);
    const stop = vi.spyOn(chat, "stop");
    key({ key: "Escape" });
    expect(stop).not.toHaveBeenCalled();
  });
});

describe("the page", () => {
  it("says when the server is away, and why where it told", () => {
    draw(<App />);
    expect(find(".banner")).toBeNull();
    act(() => void (chat.store.away.value = true));
    expect(find(".banner").textContent).toContain("No connection to the server.");
    act(() => void (chat.store.server.value = "draining"));
    expect(find(".banner").textContent).toContain("shutting down");
    expect(find<HTMLButtonElement>(".example").disabled).toBe(true);
    act(() => void (chat.store.away.value = false));
    expect(find(".banner").textContent).toBe(words.draining);
    expect(find<HTMLButtonElement>(".example").disabled).toBe(true);
  });

  it("asks for a key, says why one is refused, and shows nothing else until one is not", async () => {
    const told = (who: object, status = 200) => new Response(JSON.stringify({ required: true, tenant: null, role: null, ...who }), { status });
    loginAnswer = (_, init) => (init?.method === "GET" ? told({}) : told({ error: { message: "no", code: "invalid_api_key" } }, 401));
    const enter = async (key: string) => {
      find<HTMLInputElement>("input").value = key;
      await act(async () => {
        find("form").dispatchEvent(new Event("submit", { cancelable: true }));
        await new Promise((resolve) => setTimeout(resolve));
      });
    };
    chat.write("a draft");
    draw(<App />);
    expect(find(".app")).not.toBeNull();
    await act(() => chat.login.ask());
    expect([find(".app"), find("h1").textContent]).toEqual([null, words.login.title]);
    await enter("wrong");
    expect([find("[role=alert]").textContent, find("input").getAttribute("aria-invalid")]).toEqual([words.login.refused, "true"]);
    loginAnswer = () => told({ tenant: "ann", role: "read-only" });
    await enter("looks");
    expect([find("[role=alert]").textContent, find("a").getAttribute("href")]).toEqual([`${words.login.barred("read-only")} ${words.login.toAdmin}`, "./admin"]);
    loginAnswer = () => told({ tenant: "ann", role: "user" });
    await enter(" right ");
    expect(find<HTMLTextAreaElement>("#message").value).toBe("a draft");
  });

  it.each(["stalled", "stopped"] as const)("says when the server is there but %s", (status) => {
    draw(<App />);
    act(() => void (chat.store.server.value = status));
    expect(find(".banner").textContent).toContain(words.server[status]);
    act(() => void (chat.store.server.value = "ok"));
    expect(find(".banner")).toBeNull();
  });

  it("shows a failure until it is dismissed", () => {
    draw(<App />);
    act(() => void (chat.store.notice.value = "The disk is full."));
    expect(find(".banner-error").textContent).toBe("The disk is full.");
    act(() => find<HTMLButtonElement>(".banner-error button").click());
    expect(find(".banner-error")).toBeNull();
  });

  it("says what a setting may be, and of the longest answer what the context holds", () => {
    chat.store.dialog.value = "settings";
    chat.store.context.value = 4_096;
    draw(<App />);
    const told = (place: number, text: string) => {
      const box = document.querySelectorAll<HTMLInputElement>(".settings-grid input")[place]!;
      act(() => {
        box.value = text;
        box.dispatchEvent(new Event("input", { bubbles: true }));
      });
      expect(box.value).toBe(text);
      return [box.getAttribute("aria-invalid"), box.nextElementSibling?.textContent];
    };
    expect(told(0, "9")).toEqual(["true", "It is a number from 0 to 2."]);
    expect(told(0, "0.75")).toEqual(["false", words.sampling.temperature[1]]);
    expect(told(5, "9999")).toEqual(["true", "It is a whole number from 1 to 4,096."]);
    expect(told(5, "4096")[0]).toBe("false");
    expect(chat.store.wishes.value).toEqual({ temperature: 0.75, max_output_tokens: 4096 });
  });

  const listed = (title: string, metadata = {}): Conversation => {
    const chatpager = { title, updated_at: 1, forked_from: null, active_response_id: null };
    return { id: `conv_${title}`, object: "conversation", created_at: 1, metadata, chatpager };
  };
  const drawn = () => act(() => new Promise<void>((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve()))));
  const focused = () => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent;

  it("keeps the focus in the list when a chat is had back, is gone, or moves", async () => {
    act(() => void (chat.store.sessions.value = [listed("Ada"), listed("Bob")]));
    draw(<App />);
    act(() => void (chat.store.currentId.value = "conv_Bob"));
    await act(() => chat.deleting.doom(chat.store.sessions.value[1]!));
    await drawn();
    expect([chat.store.currentId.value, focused()]).toEqual([null, words.undo]);
    chat.store.currentId.value = null;
    vi.spyOn(chat.opening, "go").mockReturnValue();
    await act(() => find<HTMLButtonElement>(".toast button").click());
    await drawn();
    expect(focused()).toBe(words.moreOf("Bob"));
    await act(() => chat.deleting.doom(chat.store.sessions.value[1]!));
    act(() => {
      chat.store.doomed.value = null;
      chat.store.sessions.value = [listed("Ada")];
    });
    await drawn();
    expect(focused()).toBe(words.moreOf("Ada"));
    act(() => find<HTMLButtonElement>(".session-more").click());
    vi.spyOn(chat.sessions, "pin").mockImplementation(async () => void (chat.store.sessions.value = [listed("Ada", { pinned: "true" })]));
    await act(() => find<HTMLButtonElement>(".menu button").click());
    await drawn();
    expect([find(".sessions-age").textContent, focused()]).toEqual([words.pinned, words.moreOf("Ada")]);
  });

  it("says that there are more than it shows of what was found, and shows more", async () => {
    draw(<App />);
    const look = vi.spyOn(chat.sessions, "search").mockImplementation(async () => {
      chat.store.found.value = [listed("Ada"), listed("Anna"), listed("Amy")];
      chat.store.foundCursor.value = null;
    });
    const note = () => find(".sessions-note").textContent;
    act(() => {
      chat.store.search.value = "a";
      chat.store.found.value = [listed("Ada"), listed("Anna")];
    });
    expect([note(), find(".sessions-more")]).toEqual(["2 chats found", null]);
    act(() => void (chat.store.foundCursor.value = "conv_Anna"));
    expect(note()).toBe("2+ chats found");
    find<HTMLButtonElement>(".sessions-more").focus();
    await act(() => find<HTMLButtonElement>(".sessions-more").click());
    await drawn();
    expect(look).toHaveBeenCalledExactlyOnceWith("a", true);
    expect([note(), focused()]).toEqual(["3 chats found", "Amy"]);
  });

  it("names the open chat in its title", () => {
    open();
    act(() => void (chat.store.sessions.value = [{ ...listed("Ada"), id: "conv_1" }]));
    draw(<App />);
    expect(document.title).toBe("Ada · chatpager");
  });

  it("tells a screen reader whole sentences, each once", () => {
    let thread = begin(emptyThread("conv_1", "ready"), "Hi", "turn-1");
    open(thread);
    draw(<Announcer />);
    const said = () => [...place.querySelectorAll("[role=log] p")].map((one) => one.textContent);
    const events = answerEvents("resp_1", ["Hello", " Ada.", " How", " are you"]);
    const heard: number[] = [];
    for (const event of events) {
      thread = apply(thread, event);
      act(() => chat.store.put(thread));
      heard.push(said().length);
    }
    expect(said()).toEqual(["Hello Ada.", "How are you"]);
    expect(heard).toEqual([0, 0, 0, 1, 1, 1, 2]);
    expect(find("[role=log]").getAttribute("aria-live")).toBe("polite");
  });

  it("reads no old answer aloud when a chat is opened", () => {
    draw(<Announcer />);
    open(fromItems("conv_1", [item("msg_1", "user", "Hi"), item("msg_2", "assistant", "Hello.")], null));
    expect(place.querySelectorAll("[role=log] p")).toHaveLength(0);
  });
});
