/** The address of what is open, in the hash so that any server path serves it: `#/c/conv_...`, or nothing for a new chat. */
export function parseRoute(hash: string): string | null {
  return /^#\/c\/([\w-]+)$/.exec(hash)?.[1] ?? null;
}

export function routeOf(id: string | null): string {
  return id === null ? "#/" : `#/c/${id}`;
}
