/**
 * One connection to `GET /v1/responses`. It carries at most one turn at a time, so every frame that comes belongs to that turn,
 * and it comes back by itself after a drop, with growing, jittered waits. A turn that was on it when it dropped is told so
 * and is never resumed by the socket: whoever sent it asks the server what became of it, and may have it told on.
 */
import { signal } from "@preact/signals";
import { type ClientRequest, type CreateRequest, type DraftRequest, type ResumeRequest, type ServerEvent, SUBPROTOCOL, isTerminal, parseEvent } from "./events";

/** A turn to begin, or one that runs and is to be told. */
export type TurnRequest = CreateRequest | ResumeRequest;

/** Who sent a turn. Exactly one of a terminal event, an `error` before `response.created`, or `dropped` ends it. */
export interface TurnListener {
  event(event: ServerEvent): void;
  /** `sent` is false when the request never left this page. */
  dropped(sent: boolean): void;
}

export type LineState = "closed" | "connecting" | "open" | "waiting";

export interface SocketOptions {
  url: string;
  /** Whether to connect again after a drop. */
  lasting: boolean;
  /** First wait and longest wait, milliseconds. */
  wait?: { first: number; longest: number };
  random?: () => number;
  socket?: (url: string, protocol: string) => WebSocket;
}

/** The wait before attempt `attempt` (from 0), milliseconds: doubled each time up to `longest`, then spread over its upper half. */
export function backoff(attempt: number, first: number, longest: number, random: number): number {
  const whole = Math.min(longest, first * 2 ** attempt);
  return whole * (0.5 + random / 2);
}

interface Turn {
  request: TurnRequest;
  listener: TurnListener;
  sent: boolean;
  begun: boolean;
}

export class ResponsesSocket {
  readonly state = signal<LineState>("closed");
  private socket: WebSocket | null = null;
  private turn: Turn | null = null;
  private attempt = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly options: SocketOptions) {}

  private get wait(): { first: number; longest: number } {
    return this.options.wait ?? { first: 500, longest: 15_000 };
  }

  get busy(): boolean {
    return this.turn !== null;
  }

  /** Connect now, whatever wait was running. Does nothing while a connection stands or is being made. */
  connect(): void {
    if (this.socket !== null) return;
    clearTimeout(this.timer);
    this.state.value = "connecting";
    const make = this.options.socket ?? ((url, protocol) => new WebSocket(url, protocol));
    const socket = make(this.options.url, SUBPROTOCOL);
    this.socket = socket;
    socket.onopen = () => this.opened();
    socket.onmessage = (frame) => this.received(frame.data);
    socket.onclose = () => this.closed(socket);
    socket.onerror = () => undefined; // the close that follows says all there is to know
  }

  /** Give the connection up for good; a turn on it is dropped. */
  close(): void {
    this.letGo();
    this.state.value = "closed";
  }

  /** Treat the connection as dead although the browser has not noticed, and make a new one. */
  abandon(): void {
    this.letGo();
    this.again();
  }

  /** Carry a turn; it waits for a connection that is being made. */
  carry(request: TurnRequest, listener: TurnListener): void {
    if (this.turn !== null) throw new Error("this socket already carries a turn");
    this.turn = { request, listener, sent: false, begun: false };
    this.connect();
    if (this.state.value === "open") this.sendTurn();
  }

  /** Ask the server to stop; the turn still ends with its terminal event. */
  cancel(responseId: string): void {
    this.send({ type: "response.cancel", response_id: responseId });
  }

  /** Ask the server not to begin the turn that was sent, or to stop it at once; it still ends with an `error` or its terminal event. */
  withdraw(): void {
    this.send({ type: "response.cancel", stream_id: null });
  }

  /** Tell what is being written; nothing comes of it where there is no connection. */
  draft(request: DraftRequest): void {
    this.send(request);
  }

  /** Take back a turn that has not left the page yet. False when it has. */
  takeBack(): boolean {
    if (this.turn === null || this.turn.sent) return false;
    this.turn = null;
    if (!this.options.lasting) this.close(); // it was made for this turn alone
    return true;
  }

  private opened(): void {
    this.state.value = "open";
    this.timer = setTimeout(() => (this.attempt = 0), this.wait.longest); // a server that only opens and closes is no success
    if (this.turn !== null) this.sendTurn();
  }

  private sendTurn(): void {
    if (this.turn === null) return;
    this.turn.sent = true;
    this.send(this.turn.request);
  }

  private send(request: ClientRequest): void {
    if (this.state.value === "open") this.socket?.send(JSON.stringify(request));
  }

  private received(frame: unknown): void {
    const turn = this.turn;
    const event = parseEvent(frame);
    if (turn === null || event === null) return;
    if (event.type === "error" && event.about !== undefined) return; // of another frame: no turn's
    if (event.type === "response.created" || (event.type === "chatpager.resumed" && event.recovered)) turn.begun = true;
    if (isTerminal(event) || (event.type === "error" && !turn.begun)) this.turn = null;
    turn.listener.event(event);
  }

  private closed(socket: WebSocket): void {
    if (socket !== this.socket) return;
    this.letGo();
    this.again();
  }

  private letGo(): void {
    const { socket, turn } = this;
    clearTimeout(this.timer);
    this.socket = null;
    this.turn = null;
    if (socket !== null) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    turn?.listener.dropped(turn.sent);
  }

  private again(): void {
    if (!this.options.lasting) {
      this.state.value = "closed";
      return;
    }
    const { first, longest } = this.wait;
    const random = (this.options.random ?? Math.random)();
    this.state.value = "waiting";
    this.timer = setTimeout(() => this.connect(), backoff(this.attempt++, first, longest, random));
  }
}
