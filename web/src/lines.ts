/**
 * The page's connections. One always stands: it is the usual carrier and shows whether the server is there. The wire runs one
 * response at a time on a socket, so a turn sent while another conversation is still being answered gets a socket of its own,
 * which closes with the turn.
 */
import type { ReadonlySignal } from "@preact/signals";
import { type LineState, ResponsesSocket, type SocketOptions, type TurnListener, type TurnRequest } from "./socket";
import type { DraftRequest } from "./events";

export class Lines {
  private readonly main: ResponsesSocket;

  constructor(private readonly options: Omit<SocketOptions, "lasting">) {
    this.main = new ResponsesSocket({ ...options, lasting: true });
  }

  get state(): ReadonlySignal<LineState> {
    return this.main.state;
  }

  /** Connect, or try again now. */
  connect(): void {
    this.main.connect();
  }

  /** Give the standing connection up. */
  close(): void {
    this.main.close();
  }

  /** Tell the server what is being written. */
  draft(request: DraftRequest): void {
    this.main.draft(request);
  }

  /** Send a turn, or have one told; returns the socket that carries it. */
  carry(request: TurnRequest, listener: TurnListener): ResponsesSocket {
    if (!this.main.busy) {
      this.main.carry(request, listener);
      return this.main;
    }
    const extra = new ResponsesSocket({ ...this.options, lasting: false });
    extra.carry(request, {
      event: (event) => {
        listener.event(event);
        if (!extra.busy) extra.close();
      },
      dropped: (sent) => listener.dropped(sent),
    });
    return extra;
  }
}
