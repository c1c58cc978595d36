import { randomUUID } from 'node:crypto';
import type { Clock } from '../../../base/clock.ts';
import { messageOf } from '../../../base/errors.ts';
import type { Logger } from '../../logger.ts';
import type { KubernetesClient } from './client.ts';
import { apiVersionOf, EVENTS, type KubernetesObject } from './resources.ts';

export const eventDefaults = {
  /** So many at once about one object, then one for each refill: events are for people, and live in the cluster's store. */
  burst: 20,
  refillMs: 10_000,
  /** The API's bound on a note. */
  maxNoteBytes: 1024,
} as const;

export interface Happening {
  readonly type: 'Normal' | 'Warning';
  /** Why, one word in CamelCase. */
  readonly reason: string;
  /** What was done, one word in CamelCase. */
  readonly action: string;
  readonly note: string;
}

/** Tells about objects in Events. What cannot be told is logged, and nothing waits for it. */
export interface EventTeller {
  tell(about: KubernetesObject, happening: Happening): void;
  /** About which nothing will be told any more. */
  forget(uid: string | undefined): void;
}

export function eventTeller(options: {
  readonly client: KubernetesClient;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly instance: string;
}): EventTeller {
  const { client, clock, logger, instance } = options;
  const budgets = new Map<string, { tokens: number; atMs: number; last?: string }>();

  const mayTell = (uid: string, text: string): boolean => {
    const nowMs = clock.nowMs();
    const budget = budgets.get(uid) ?? { tokens: eventDefaults.burst, atMs: nowMs };
    budgets.set(uid, budget);
    if (budget.last === text) return false;
    const refill = (nowMs - budget.atMs) / eventDefaults.refillMs;
    budget.tokens = Math.min(eventDefaults.burst, budget.tokens + refill);
    budget.atMs = nowMs;
    if (budget.tokens < 1) return false;
    budget.tokens--;
    budget.last = text;
    return true;
  };

  return {
    tell({ apiVersion, kind, metadata }, { type, reason, action, note }) {
      const { namespace = 'default', name, uid = '', resourceVersion } = metadata;
      if (!mayTell(uid, `${reason} ${note}`)) return;
      const event: KubernetesObject = {
        apiVersion: apiVersionOf(EVENTS),
        kind: EVENTS.kind,
        metadata: { namespace, name: `${name}.${randomUUID().slice(0, 13)}` },
        eventTime: new Date(clock.epochMs()).toISOString().replace('Z', '000Z'),
        type,
        reason,
        action,
        note: cut(note, eventDefaults.maxNoteBytes),
        regarding: { apiVersion, kind, namespace, name, uid, resourceVersion },
        reportingController: 'bonsai.dev/controller',
        reportingInstance: instance,
      };
      client.create(EVENTS, event).catch((error) => {
        logger.debug({}, `An event about ${kind} ${name} was not taken: ${messageOf(error)}`);
      });
    },
    forget(uid = '') {
      budgets.delete(uid);
    },
  };
}

function cut(text: string, maxBytes: number): string {
  if (Buffer.byteLength(text) <= maxBytes) return text;
  return `${Buffer.from(text)
    .subarray(0, maxBytes - 4)
    .toString('utf8')
    .replace(/\uFFFD+$/, '')}…`;
}
