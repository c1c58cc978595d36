import { expect, test } from 'vitest';
import type { ServerRecord } from '../../src/orchestrate/fleet/record.ts';
import { NO_FILTER, shownServers } from './fleet-order.ts';

function server(name: string, figures: Partial<ServerRecord> = {}): ServerRecord {
  return { name, http: '', health: 'up', cpus: 1, tasks: [], ...figures };
}

const serving = (task: string, demandRps: number) => [{ task, version: 1, weight: 100, demandRps }];

const SERVERS = [
  server('edge-10', { utilization: 0.9, tasks: serving('digits', 1) }),
  server('edge-2', { tasks: serving('signs', 9) }),
  server('edge-3', { isDrained: true }),
  server('edge-4', { health: 'down', trouble: 'refused' }),
  server('edge-5', { trouble: 'version 3 could not be loaded', utilization: 0.1 }),
  server('edge-6', { change: 'switch' }),
];

const names = (...args: Parameters<typeof shownServers> extends [unknown, ...infer R] ? R : never) =>
  shownServers(SERVERS, ...args).map(({ name }) => name);

test('those that want attention come first, then by name with its numbers as numbers', () => {
  expect(names(NO_FILTER, 'trouble')).toEqual(['edge-4', 'edge-5', 'edge-3', 'edge-6', 'edge-2', 'edge-10']);
  expect(names(NO_FILTER, 'name')).toEqual(['edge-2', 'edge-3', 'edge-4', 'edge-5', 'edge-6', 'edge-10']);
  expect(names(NO_FILTER, 'cpu').slice(0, 2)).toEqual(['edge-10', 'edge-5']);
  expect(names(NO_FILTER, 'demand').slice(0, 2)).toEqual(['edge-2', 'edge-10']);
});

test('are found by a part of their name, a task, and how they are', () => {
  expect(names({ ...NO_FILTER, name: ' EDGE-1' }, 'name')).toEqual(['edge-10']);
  expect(names({ ...NO_FILTER, task: 'signs' }, 'name')).toEqual(['edge-2']);
  expect(names({ ...NO_FILTER, health: 'trouble' }, 'name')).toEqual(['edge-4', 'edge-5']);
  expect(names({ ...NO_FILTER, health: 'down' }, 'name')).toEqual(['edge-4']);
  expect(names({ ...NO_FILTER, health: 'drained' }, 'name')).toEqual(['edge-3']);
  expect(names({ ...NO_FILTER, health: 'changing' }, 'name')).toEqual(['edge-6']);
});
