import type { ContestedThroughput, Profile } from '../../repository/types.ts';

/** What a profile shall hold beyond its throughput. */
export interface WantedProfile {
  /** Single inferences that its latency stands on, at least. */
  readonly latencyRuns: number;
  /** Whether memory can be measured on the target. */
  readonly memory: boolean;
  /** Whether load time can. */
  readonly load: boolean;
  /** Another model and the shares of its maximum that it takes. */
  readonly contest?: { readonly by: ContestedThroughput['by']; readonly shares: readonly number[] };
}

/** One measurement of a profile. */
export type ProfilePart =
  | { readonly kind: 'latency' | 'load' | 'throughput' | 'unbatched' | 'memory' }
  | { readonly kind: 'contested'; readonly share: number };

/**
 * What has to be measured of a variant, in the order to measure it.
 * @param known its profile on the same target, of which parts may be missing: porting measures only some
 */
export function missingParts(known: Profile | undefined, wanted: WantedProfile): ProfilePart[] {
  const parts: ProfilePart[] = [];
  const { latencyRuns, load, memory, contest } = wanted;
  if (known?.latencyMs.p95 === undefined || known.latencyMs.count < latencyRuns)
    parts.push({ kind: 'latency' });
  if (memory && known?.memoryBytes === undefined) parts.push({ kind: 'memory' });
  if (load && known?.loadMs === undefined) parts.push({ kind: 'load' });
  if (known === undefined) parts.push({ kind: 'throughput' });
  if (known?.unbatchedRps === undefined) parts.push({ kind: 'unbatched' });
  for (const share of contest?.shares ?? []) {
    const isKnown = known?.contested?.some((entry) => entry.share === share && isBy(entry, contest!.by));
    if (isKnown !== true) parts.push({ kind: 'contested', share });
  }
  return parts;
}

/**
 * Newer entries in place of those of the same model and share, ordered by model and share. The same model is the same
 * network, whatever its number is now. What was measured beside a network that bore the number before goes as well: nobody
 * can look it up any more.
 */
export function mergeContested(
  known: readonly ContestedThroughput[],
  measured: readonly ContestedThroughput[],
): ContestedThroughput[] {
  const kept = known.filter(
    (old) =>
      !measured.some(
        (entry) =>
          entry.share === old.share && (isNamed(entry.by, old.by) || isSameNetwork(entry.by, old.by)),
      ),
  );
  return [...kept, ...measured].sort(
    (a, b) => a.by.task.localeCompare(b.by.task) || a.by.version - b.by.version || a.share - b.share,
  );
}

function isBy({ by }: ContestedThroughput, other: ContestedThroughput['by']): boolean {
  const isUnsure = by.digest === undefined || other.digest === undefined;
  return isUnsure ? isNamed(by, other) : isSameNetwork(by, other);
}

function isNamed(by: ContestedThroughput['by'], other: ContestedThroughput['by']): boolean {
  return by.task === other.task && by.version === other.version;
}

function isSameNetwork(by: ContestedThroughput['by'], other: ContestedThroughput['by']): boolean {
  return by.task === other.task && by.digest !== undefined && by.digest === other.digest;
}
