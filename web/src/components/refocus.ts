/** The button of a chat's row in the list. */
export function rowButton(id: string): string {
  return `[data-session="${id}"] .session-more`;
}

export function rowLink(id: string): string {
  return `[data-session="${id}"] a`;
}

/** Whether the reader points with something that is no finger: to put the cursor into a field raises no keyboard then. */
export function pointsFinely(): boolean {
  return window.matchMedia("(pointer: fine)").matches;
}

/** Once what was changed is drawn: where the focus went away with something, it goes to the first of these places that takes it. */
export function refocus(...places: string[]): void {
  requestAnimationFrame(() => {
    const lost = () => document.activeElement === null || document.activeElement === document.body;
    for (const place of places) if (lost()) document.querySelector<HTMLElement>(place)?.focus({ preventScroll: true });
  });
}
