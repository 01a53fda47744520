/** The address of what is shown, in the hash: every view, a conversation's turns, and a table's order and filter can be linked to. */
export const VIEWS = ["overview", "reuse", "blocks", "leases", "requests", "tenants", "config"] as const;
export type View = (typeof VIEWS)[number];

export interface Route {
  /** `nowhere`: there is no such page. */
  view: View | "session" | "nowhere";
  /** Of the view `session`. */
  tenant: string;
  session: string;
  /** As it stands in the address. */
  path: string;
  query: URLSearchParams;
}

export function parseRoute(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const whole = path === "" ? "overview" : path;
  const [view = "", tenant = "", session = ""] = whole.split("/").map(decoded);
  const rest = { tenant: "", session: "", path: whole, query: new URLSearchParams(query) };
  if (view === "session" && tenant !== "" && session !== "") return { view, ...rest, tenant, session };
  return { view: VIEWS.find((name) => name === whole) ?? "nowhere", ...rest };
}

export function hrefOf(view: View, query?: Record<string, string>): string {
  const said = query === undefined ? "" : new URLSearchParams(query).toString();
  return said === "" ? `#/${view}` : `#/${view}?${said}`;
}

export function sessionHref(tenant: string, session: string): string {
  return `#/session/${encodeURIComponent(tenant)}/${encodeURIComponent(session)}`;
}

export function hashOf(route: Route): string {
  const query = route.query.toString();
  return query === "" ? `#/${route.path}` : `#/${route.path}?${query}`;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return ""; // an address that somebody cut
  }
}
