// @vitest-environment happy-dom
import { render } from "preact";
import { act } from "preact/test-utils";
import { afterEach, beforeEach, expect, it } from "vitest";
import { AdminApi } from "../src/admin/api";
import { Replicas } from "../src/admin/components/Replicas";
import { StoreContext } from "../src/admin/components/context";
import { AdminStore } from "../src/admin/store";
import type { ReplicaRow } from "../src/admin/wire";
import { Login } from "../src/login";

const replica = (id: string, more: Partial<ReplicaRow> = {}): ReplicaRow => ({ id, state: "ok", restarts: 0, process: 7, answers: 2, queued_tokens: 300, engine: null, ...more });

let place: HTMLElement;
let data: ReplicaRow[];
let posted: string[];
beforeEach(() => {
  place = document.createElement("div");
  posted = [];
});
afterEach(() => act(() => render(null, place)));

async function draw() {
  const api = new AdminApi("http://here/", async (url, init) => {
    if (init?.method === "POST") {
      posted.push(new URL(String(url)).pathname);
      data = data.map((one) => ({ ...one, state: "draining" }));
    }
    return Response.json({ object: "list", data });
  });
  const store = new AdminStore(api, new Login(api, ["admin"]));
  await act(async () => render(<StoreContext.Provider value={store}><Replicas /></StoreContext.Provider>, place));
  await settled();
}
const settled = () => act(() => new Promise((resolve) => setTimeout(resolve)));

it("one engine is no table of replicas", async () => {
  data = [replica("engine")];
  await draw();
  expect(place.textContent).toBe("");
});

it("several are told with what they do, and one is drained and taken back", async () => {
  data = [replica("r0"), replica("r1", { state: "restarting", restarts: 3, answers: 0 })];
  await draw();
  const rows = [...place.querySelectorAll("tbody tr")].map((row) => [...row.children].map((cell) => cell.textContent));
  expect(rows.map((row) => row.slice(0, 4))).toEqual([["r0", "ready", "2", "300"], ["r1", "restarting", "0", "300"]]);
  expect(rows[1]?.[6]).toBe("3");
  const [drain] = place.querySelectorAll("tbody button");
  await act(() => (drain as HTMLButtonElement).click());
  await settled();
  expect(posted).toEqual(["/v1/admin/replicas/r0/drain"]);
  expect(place.querySelector("tbody button")?.textContent).toBe("Resume");
});
