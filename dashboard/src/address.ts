/** `?server=NAME`: so that a server's page can be kept as a bookmark, and the browser goes back from it. */
export function addressOf(server: string): string {
  return `./?server=${encodeURIComponent(server)}`;
}

/** The server that the address of the page names; undefined: none. */
export function serverInAddress(): string | undefined {
  return new URLSearchParams(location.search).get('server') ?? undefined;
}
