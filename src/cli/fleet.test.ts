import { expect, test } from 'vitest';
import type { FleetRecord } from '../orchestrate/fleet/record.ts';
import { statusText } from './fleet.ts';

const record: FleetRecord = {
  schemaVersion: 1,
  term: 3,
  savedMs: 1_000_000,
  plan: {
    reason: '1 of 2 tasks on 2 of 3 servers: 40.0 req/s take 30 % of the CPU at accuracy 99.0 %.',
    utilization: 0.3,
    accuracy: 0.99,
    unplaced: [{ task: 'faces', reason: 'no server that faces may run on is up' }],
    unservedRps: { mnist: 2.5 },
  },
  balancer: { kind: 'NGINX' },
  servers: [
    {
      name: 'edge-1',
      http: '127.0.0.1:8000',
      health: 'up',
      cpus: 2,
      utilization: 0.314,
      change: 'switch mnist 3 -> 2 on edge-1',
      tasks: [
        { task: 'mnist', version: 3, plannedVersion: 2, weight: 25, demandRps: 20 },
        { task: 'cifar10', plannedVersion: 4, weight: 0, demandRps: 0 },
      ],
    },
    {
      name: 'edge-2',
      http: '127.0.0.1:8010',
      health: 'down',
      trouble: 'connection refused',
      cpus: 1,
      tasks: [],
    },
  ],
  tasks: [{ task: 'mnist', demandRps: 40 }],
  decisions: [
    { atMs: 0, kind: 'begin', server: 'edge-1', task: 'mnist', text: 'switch mnist 3 -> 2 on edge-1: why.' },
  ],
};

test('the status of a fleet shows servers, tasks, versions, weights, health and reasons', () => {
  expect(statusText(record, { pid: 42, host: 'box' }, 1_002_000)).toMatchInlineSnapshot(`
    "Orchestrated by process 42 on box; state of 2 s ago.
    1 of 2 tasks on 2 of 3 servers: 40.0 req/s take 30 % of the CPU at accuracy 99.0 %.
    faces is not placed: no server that faces may run on is up.
    mnist: 2.5 req/s are more than its servers can carry.
    Balancer: NGINX.

    server  health        CPU  task     version  planned  weight  req/s  under way
    ──────  ──────  ─────────  ───────  ───────  ───────  ──────  ─────  ─────────────────────────────
    edge-1  up      31 % of 2  mnist          3        2      25   20.0  switch mnist 3 -> 2 on edge-1
                               cifar10        –        4       0    0.0
    edge-2  down            ?  –              –        –       0    0.0

    edge-2: connection refused

    00:00:00  begin    switch mnist 3 -> 2 on edge-1: why."
  `);
});

test('says what people have set by hand', () => {
  const [first, ...others] = record.servers;
  const text = statusText(
    {
      ...record,
      overrides: { tasks: { mnist: { version: 2, sloMs: 80 } }, drained: ['edge-1'] },
      servers: [{ ...first!, isDrained: true }, ...others],
    },
    undefined,
    1_000_000,
  );
  expect(text).toContain(
    'By hand: edge-1 is drained: it gets no requests, and its tasks move to other servers.',
  );
  expect(text).toContain('By hand: mnist is pinned to version 2.');
  expect(text).toContain('By hand: The objective of mnist is 80 ms.');
  expect(text).toMatch(/^edge-1 {2}up, drained +31 % of 2/m);
});

test('says where nobody orchestrates, and what troubles the balancer', () => {
  const text = statusText(
    { ...record, balancer: { kind: 'NGINX', error: 'it refuses' } },
    undefined,
    1_060_000,
  );
  expect(text).toContain('Nobody orchestrates this fleet; its last state is 60 s old.');
  expect(text).toContain('Balancer: NGINX, in trouble: it refuses');
});
