import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../../base/clock.ts';
import { messageOf } from '../../../base/errors.ts';
import type { Logger } from '../../logger.ts';
import { described } from '../../watch.ts';
import type { KubernetesClient, Selection, WatchEvent } from './client.ts';
import { isStatus, KubernetesError } from './errors.ts';
import { type KubernetesObject, keyOf, type Resource } from './resources.ts';

export const followDefaults = {
  /** Between tries: from the first to the last, doubling. */
  firstBackoffMs: 500,
  lastBackoffMs: 30_000,
  /** A watch that ends sooner than this counts as a failure: else a broken server would be asked without a pause. */
  shortWatchMs: 1_000,
} as const;

/** A collection as it is known now. */
export interface Followed<T> {
  readonly items: ReadonlyMap<string, T>;
  /** Resolves after the first list, also when the signal came before it. */
  readonly listed: Promise<void>;
  /** Resolves when nothing is followed any more, after the signal. */
  readonly ended: Promise<void>;
}

/**
 * Follows a collection: a list, then a watch from there; after a broken watch another one from the last bookmark or event, and a
 * new list where the server has forgotten that moment (410). Its errors are told once and tried again, until the signal.
 * Source: Kubernetes API concepts, "Efficient detection of changes".
 * @param keep what is kept of each object; undefined: nothing
 * @param onChange told the keys of what was added, changed or removed
 */
export function follow<T>(options: {
  readonly client: KubernetesClient;
  readonly resource: Resource;
  readonly selection: Selection;
  readonly keep: (object: KubernetesObject) => T | undefined;
  readonly onChange: (key: string, now: T | undefined, before: T | undefined) => void;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  readonly firstBackoffMs?: number;
}): Followed<T> {
  const { client, resource, selection, keep, onChange, clock, logger, signal } = options;
  const { firstBackoffMs = followDefaults.firstBackoffMs } = options;
  const items = new Map<string, T>();
  const { promise: listed, resolve: whenListed } = withResolvers();
  let resourceVersion: string | undefined;

  const set = (key: string, now: T | undefined) => {
    const before = items.get(key);
    if (now === undefined && before === undefined) return;
    if (now === undefined) items.delete(key);
    else items.set(key, now);
    onChange(key, now, before);
  };
  const take = ({ type, object }: WatchEvent) => {
    resourceVersion = object.metadata.resourceVersion ?? resourceVersion;
    if (type === 'BOOKMARK') return;
    set(keyOf(object.metadata), type === 'DELETED' ? undefined : keep(object));
  };
  const list = async () => {
    const all = await client.list(resource, selection, signal);
    const seen = new Set<string>();
    for (const object of all.items) {
      seen.add(keyOf(object.metadata));
      set(keyOf(object.metadata), keep(object));
    }
    for (const key of [...items.keys()]) if (!seen.has(key)) set(key, undefined);
    resourceVersion = all.resourceVersion;
    whenListed();
  };

  const run = async () => {
    let backoffMs = firstBackoffMs;
    let told: string | undefined;
    while (!signal.aborted) {
      try {
        if (resourceVersion === undefined) await list();
        const sinceMs = clock.nowMs();
        for await (const event of client.watch(resource, selection, resourceVersion!, signal)) {
          take(event);
          backoffMs = firstBackoffMs;
          if (told !== undefined) logger.info({}, `${resource.plural} are followed again.`);
          told = undefined;
        }
        // Ended by the server, as it should from time to time.
        if (clock.nowMs() - sinceMs >= followDefaults.shortWatchMs) continue;
        await wait(backoffMs);
      } catch (error) {
        if (signal.aborted) break;
        // Too long ago: what happened since then is in a new list.
        if (isStatus(error, 410)) {
          resourceVersion = undefined;
          logger.debug({}, `${resource.plural} are listed anew: ${messageOf(error)}`);
        } else if (told !== messageOf(error)) {
          told = messageOf(error);
          logger.error(described(error), `${resource.plural} cannot be followed, trying on: ${told}`);
        }
        await wait(Math.max(backoffMs, (error instanceof KubernetesError && error.retryAfterMs) || 0));
      }
      backoffMs = Math.min(2 * backoffMs, followDefaults.lastBackoffMs);
    }
    whenListed();
  };
  const wait = (ms: number) => delay(ms, undefined, { signal }).catch(() => {});
  return { items, listed, ended: run() };
}

function withResolvers(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
