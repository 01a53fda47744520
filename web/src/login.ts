/**
 * Who a page is to its server. A key is sent once and kept nowhere: what opens the server from then on is a cookie, which no script
 * can read and which ends by itself.
 */
import { batch, computed, signal } from "@preact/signals";
import { ApiError, type Calls, reasonOf } from "./calls";
import { words } from "./words";

export type Role = "user" | "admin" | "read-only";

/** What `/v1/login` tells. */
export interface LoggedIn {
  /** The server asks for a key. */
  required: boolean;
  /** Null for who is not in. */
  tenant: string | null;
  role: Role | null;
}

export class Login {
  readonly who = signal<LoggedIn | null>(null);
  /** Whose page this has been. */
  private tenant: string | null = null;

  constructor(
    private readonly calls: Calls,
    /** Who this page is of use to. */
    private readonly roles: readonly Role[],
    /** Load the page anew: what it holds is another's. */
    private readonly restart: () => void = () => undefined,
  ) {}

  /** Somebody is in whom this page is of no use to. */
  readonly barred = computed(() => {
    const role = this.who.value?.role ?? null;
    return role !== null && !this.roles.includes(role);
  });
  /** The page has nothing to show until somebody logs in. */
  readonly wanted = computed(() => this.calls.locked.value || this.barred.value);
  /** Somebody is in who can log out. */
  readonly leavable = computed(() => this.who.value?.required === true && this.who.value.role !== null);
  readonly mayChange = computed(() => this.who.value?.role !== "read-only");
  /** Somebody was in, and is not any more. */
  get ended(): boolean {
    return this.tenant !== null && this.calls.locked.value;
  }

  /** Ask who is in. Where no answer comes, the page's other calls tell what is wrong. */
  async ask(): Promise<void> {
    try {
      this.hear(await this.calls.open<LoggedIn>("GET", "v1/login"));
    } catch {
      return;
    }
  }

  /** Come in by a key. Returns why not, or null. */
  async enter(key: string): Promise<string | null> {
    try {
      this.hear(await this.calls.open<LoggedIn>("POST", "v1/login", { key }));
      return null;
    } catch (error) {
      return error instanceof ApiError && error.locked ? words.login.refused : reasonOf(error);
    }
  }

  /** Log out. Throws `ApiError` when the server has not heard of it. */
  async leave(): Promise<void> {
    await this.calls.open("DELETE", "v1/login");
    this.restart();
  }

  private hear(told: LoggedIn): void {
    const before = this.tenant;
    this.tenant = told.tenant ?? before;
    if (before !== null && this.tenant !== before) return this.restart();
    batch(() => {
      this.who.value = told;
      this.calls.locked.value = told.required && told.role === null;
    });
  }
}
