/** A place where requests queue: a slot of a server, or a server. */
export interface Place {
  /** Work ahead of a new request, in ms: what is computed now and what waits with a deadline, at the fastest versions. */
  readonly committedMs: number;
  /** Versions of the request's task that can answer there; 0: it would have to wait for a load. */
  readonly residentVersions: number;
}

/**
 * Where a request goes: the place with the least committed work of those where a version can answer it, of equals the
 * one with more versions to choose from, of those the first; where no place has a version, the one with the least work.
 * @returns undefined for no places
 */
export function leastCommitted<P extends Place>(places: Iterable<P>): P | undefined {
  let best: P | undefined;
  for (const place of places) if (best === undefined || isBetter(place, best)) best = place;
  return best;
}

function isBetter(place: Place, best: Place): boolean {
  const isAble = place.residentVersions > 0;
  if (isAble !== best.residentVersions > 0) return isAble;
  if (place.committedMs !== best.committedMs) return place.committedMs < best.committedMs;
  return place.residentVersions > best.residentVersions;
}
