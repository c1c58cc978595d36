import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../../../base/clock.ts';
import { BonsaiError, messageOf } from '../../../base/errors.ts';
import type { Lease } from '../../fleet/lease.ts';
import type { KubernetesClient } from './client.ts';
import { isStatus } from './errors.ts';
import { apiVersionOf, type KubernetesObject, LEASES } from './resources.ts';

export const kubernetesLeaseDefaults = {
  /** Without a renewal for so long, another controller takes over. */
  durationMs: 10_000,
  /** Renewals, and looks of those who wait. */
  periodMs: 2_000,
  /** Whoever could not renew for this share of the duration stops, well before another may begin. */
  renewRatio: 2 / 3,
} as const;

/** As much of a Lease's spec as is used. Source: coordination.k8s.io/v1. */
interface LeaseSpec {
  readonly holderIdentity?: string;
  readonly leaseDurationSeconds?: number;
  readonly acquireTime?: string;
  readonly renewTime?: string;
  readonly leaseTransitions?: number;
}

/**
 * The right to act, by a Lease object: of several controllers one has it, and renews it. As with client-go, nobody trusts another
 * machine's clock: a holder is gone when its lease did not change for its duration, as seen from here.
 * @param identity a name that nobody else has
 * @param onWait told who has it, whenever that is somebody else than before
 * @throws BonsaiError `aborted` when the signal came before the lease; KubernetesError where it is forbidden
 */
export async function acquireKubernetesLease(options: {
  readonly client: KubernetesClient;
  readonly namespace: string;
  readonly name: string;
  readonly identity: string;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly onWait?: (holder: string) => void;
  readonly onTrouble?: (error: unknown) => void;
  readonly durationMs?: number;
  readonly periodMs?: number;
}): Promise<Lease> {
  const { client, namespace, name, identity, clock, signal, onWait, onTrouble } = options;
  const { durationMs = kubernetesLeaseDefaults.durationMs, periodMs = kubernetesLeaseDefaults.periodMs } =
    options;
  let seen: { readonly version: string; readonly sinceMs: number } | undefined;
  let told: string | undefined;
  for (;;) {
    if (signal.aborted) throw new BonsaiError('aborted', 'Stopped before the lease was free.');
    try {
      const current = await client.get(LEASES, namespace, name, signal);
      const spec = specOf(current);
      const version = current?.metadata.resourceVersion ?? '';
      if (seen?.version !== version) seen = { version, sinceMs: clock.nowMs() };
      const holder = spec.holderIdentity ?? '';
      const theirsMs = 1000 * (spec.leaseDurationSeconds ?? durationMs / 1000);
      if (holder === '' || clock.nowMs() - seen.sinceMs > theirsMs) {
        const taken = await take(current, spec);
        return held(taken, options, { durationMs, periodMs });
      }
      if (told !== holder) {
        told = holder;
        onWait?.(holder);
      }
    } catch (error) {
      if (isStatus(error, 401, 403)) throw error;
      // Another one was quicker (409), or the API server is not there: both may be over in a moment.
      if (!signal.aborted && !isStatus(error, 409)) onTrouble?.(error);
    }
    await delay(periodMs, undefined, { signal }).catch(() => {});
  }

  function take(current: KubernetesObject | undefined, spec: LeaseSpec): Promise<KubernetesObject> {
    const now = microTime(clock);
    const mine: LeaseSpec = {
      holderIdentity: identity,
      leaseDurationSeconds: Math.ceil(durationMs / 1000),
      acquireTime: now,
      renewTime: now,
      leaseTransitions: (spec.leaseTransitions ?? 0) + 1,
    };
    if (current === undefined) {
      const metadata = { namespace, name };
      return client.create(
        LEASES,
        { apiVersion: apiVersionOf(LEASES), kind: LEASES.kind, metadata, spec: mine },
        signal,
      );
    }
    // Of two who take it over, the second finds its resourceVersion gone.
    return client.update(LEASES, { ...current, spec: mine }, signal);
  }
}

function held(
  taken: KubernetesObject,
  options: { readonly client: KubernetesClient; readonly identity: string; readonly clock: Clock },
  { durationMs, periodMs }: { readonly durationMs: number; readonly periodMs: number },
): Lease {
  const { client, identity, clock } = options;
  const controller = new AbortController();
  let current = taken;
  let renewedMs = clock.nowMs();
  let renewing: Promise<void> = Promise.resolve();
  let isReleased = false;
  const lose = (why: string) => {
    clearInterval(timer);
    controller.abort(new BonsaiError('aborted', `The lease ${taken.metadata.name} was lost: ${why}.`));
  };
  const isLate = () => clock.nowMs() - renewedMs > kubernetesLeaseDefaults.renewRatio * durationMs;
  const renew = async () => {
    if (controller.signal.aborted || isReleased) return;
    const atMs = clock.nowMs();
    try {
      current = await client.update(LEASES, {
        ...current,
        spec: { ...specOf(current), renewTime: microTime(clock) },
      });
      renewedMs = atMs;
    } catch (error) {
      if (isStatus(error, 409, 404)) await lookAgain();
      else if (isLate()) lose(`it cannot be renewed: ${messageOf(error)}`);
    }
  };
  /** Changed by somebody: a person who set a label, or another holder. */
  const lookAgain = async () => {
    const { namespace = '', name } = taken.metadata;
    try {
      const now = await client.get(LEASES, namespace, name);
      const holder = specOf(now).holderIdentity;
      if (now === undefined || holder !== identity)
        lose(now === undefined ? 'it is gone' : `${holder || 'nobody'} has it`);
      else current = now;
    } catch {
      // The next renewal tells.
    }
  };
  const timer = setInterval(() => {
    // Also one whose process was stopped for long, or whose requests hang.
    if (isLate()) lose('it was not renewed in time');
    else renewing = renewing.then(renew);
  }, periodMs);
  return {
    term: specOf(taken).leaseTransitions ?? 0,
    lost: controller.signal,
    async release() {
      isReleased = true;
      clearInterval(timer);
      await renewing;
      if (controller.signal.aborted) return;
      // Others have it at once; if this fails, after its duration.
      const spec = { ...specOf(current), holderIdentity: '' };
      await client.update(LEASES, { ...current, spec }).catch(() => {});
    },
  };
}

function specOf(lease: KubernetesObject | undefined): LeaseSpec {
  return (lease?.spec ?? {}) as LeaseSpec; // As coordination.k8s.io/v1 says.
}

/** RFC 3339 with microseconds, as MicroTime is written. */
function microTime(clock: Clock): string {
  return new Date(clock.epochMs()).toISOString().replace('Z', '000Z');
}
