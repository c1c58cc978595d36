import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { systemClock } from '../../../base/clock.ts';
import type { Lease } from '../../fleet/lease.ts';
import { ApiServer } from './api-server.fixture.ts';
import { KubernetesClient } from './client.ts';
import { acquireKubernetesLease } from './lease.ts';

const COLLECTION = '/apis/coordination.k8s.io/v1/namespaces/edge/leases';
/** Long against what a busy machine may pause; time is moved by hand. */
const DURATION_MS = 30_000;

let api: ApiServer;
let client: KubernetesClient;
let aheadMs: number;
const clock = { nowMs: () => systemClock.nowMs() + aheadMs, epochMs: () => systemClock.epochMs() + aheadMs };
const held: Lease[] = [];

beforeEach(async () => {
  api = new ApiServer();
  client = new KubernetesClient({ server: await api.start(), namespace: 'edge' });
  aheadMs = 0;
});
afterEach(async () => {
  for (const lease of held.splice(0)) await lease.release();
  await client.close();
  await api.stop();
});

async function acquire(
  identity: string,
  onWait?: (holder: string) => void,
  signal = new AbortController().signal,
) {
  const lease = await acquireKubernetesLease({
    client,
    namespace: 'edge',
    name: 'bonsai',
    identity,
    clock,
    signal,
    onWait,
    durationMs: DURATION_MS,
    periodMs: 20,
  });
  held.push(lease);
  return lease;
}

const spec = () => api.find(COLLECTION, 'bonsai')!.spec;
const eventually = (check: () => void) => vi.waitFor(check, { timeout: 30_000, interval: 20 });

test('one has it and renews it; the other waits, and has it at once when it is released', async () => {
  const first = await acquire('first');
  expect(spec()).toMatchObject({ holderIdentity: 'first', leaseDurationSeconds: 30, leaseTransitions: 1 });
  const renewed = spec().renewTime;
  await eventually(() => expect(spec().renewTime).not.toBe(renewed));
  let holder: string | undefined;
  const second = acquire('second', (name) => {
    holder = name;
  });
  await eventually(() => expect(holder).toBe('first'));
  await first.release();
  expect((await second).term).toBe(2);
  expect(first.lost.aborted).toBe(false);
});

test('of many who want it in the same moment, one has it', async () => {
  const stop = new AbortController();
  const tries = ['a', 'b', 'c', 'd'].map((name) => acquire(name, undefined, stop.signal));
  const winner = await Promise.race(tries);
  stop.abort();
  const results = await Promise.allSettled(tries);
  expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  expect(winner.term).toBe(1);
});

test('it is taken over when it was not renewed for its duration, whatever the clock of its holder says', async () => {
  api.put(COLLECTION, {
    apiVersion: 'coordination.k8s.io/v1',
    kind: 'Lease',
    metadata: { name: 'bonsai' },
    spec: {
      holderIdentity: 'crashed',
      leaseDurationSeconds: 30,
      leaseTransitions: 6,
      renewTime: '2001-01-01T00:00:00.000000Z',
    },
  });
  let waits = 0;
  const lease = acquire('next', () => waits++);
  await eventually(() => expect(waits).toBe(1));
  aheadMs = DURATION_MS + 1;
  expect((await lease).term).toBe(7);
  expect(spec().holderIdentity).toBe('next');
});

test('a change by somebody who does not take it is survived', async () => {
  const lease = await acquire('first');
  api.put(COLLECTION, {
    ...api.find(COLLECTION, 'bonsai')!,
    metadata: { name: 'bonsai', labels: { team: 'edge' } },
  });
  const renewed = spec().renewTime;
  await eventually(() => expect(spec().renewTime).not.toBe(renewed));
  expect([lease.lost.aborted, api.find(COLLECTION, 'bonsai')!.metadata.labels]).toEqual([
    false,
    { team: 'edge' },
  ]);
});

test('it is lost when another one has it, and when it cannot be renewed in time', async () => {
  const robbed = await acquire('first');
  api.put(COLLECTION, { ...api.find(COLLECTION, 'bonsai')!, spec: { ...spec(), holderIdentity: 'thief' } });
  await eventually(() => expect(robbed.lost.aborted).toBe(true));
  expect(String(robbed.lost.reason)).toContain('thief has it');
  api.remove(COLLECTION, 'bonsai');
  const cutOff = await acquire('second');
  api.fail = () => 503;
  aheadMs += (2 / 3) * DURATION_MS + 1;
  await eventually(() => expect(cutOff.lost.aborted).toBe(true));
  api.fail = undefined;
});

test('whoever may not ask for it is told so at once', async () => {
  api.fail = () => 403;
  await expect(acquire('nobody')).rejects.toMatchObject({ code: 'invalid_config', status: 403 });
});
