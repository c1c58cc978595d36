import { expect, test } from 'vitest';
import type { FleetRecord, ServerRecord } from '../orchestrate/fleet/record.ts';
import { CELLS_PER_PERIOD, FleetFrames } from './fleet-frames.ts';

function record(second: number, size: number, demandRps: number): FleetRecord {
  const servers = Array.from(
    { length: size },
    (_, i): ServerRecord => ({
      name: `s${i}`,
      http: '',
      health: i === 1 ? 'down' : 'up',
      cpus: 1,
      tasks: [{ task: 'a', version: 2, plannedVersion: 1, weight: 100, demandRps: i === 1 ? 0 : demandRps }],
    }),
  );
  const plan = { reason: '', utilization: 0, accuracy: 1, unplaced: [], unservedRps: {} };
  const tasks = [{ task: 'a', demandRps: 7, replicas: 2, hosts: 1, servedAccuracy: 0.9 }];
  const savedMs = 1000 * second;
  return {
    schemaVersion: 1,
    term: 1,
    savedMs,
    plan,
    balancer: { kind: 'none' },
    servers,
    tasks,
    decisions: [],
  };
}

test('of a small fleet each period is a frame, with the servers that are up', () => {
  const frames = new FleetFrames();
  frames.add(record(1, 2, 3));
  expect(frames.add(record(2, 2, 4))).toEqual({
    atMs: 2000,
    spanMs: 1000,
    tasks: {
      a: {
        servers: { s0: [2, 4] },
        plannedRps: 7,
        unservedRps: 0,
        servedAccuracy: 0.9,
        plannedAccuracy: undefined,
        replicas: 2,
        hosts: 1,
      },
    },
  });
});

test('of a large one several periods are, so that an hour takes as much room', () => {
  const frames = new FleetFrames();
  const made = Array.from({ length: 12 }, (_, i) => frames.add(record(i, 3 * CELLS_PER_PERIOD, i % 3)));
  const kept = made.filter((frame) => frame !== undefined);
  expect(kept).toHaveLength(4);
  // The mean of 0, 1 and 2.
  expect(kept[1]!.tasks.a!.servers.s0).toEqual([2, 1]);
  expect(kept[1]!.spanMs).toBe(3000);
});
