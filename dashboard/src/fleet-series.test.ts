import { expect, test } from 'vitest';
import type { FleetFrame, FleetTaskFrame } from '../../src/serve/control/messages.ts';
import { fleetTaskSeriesOf, STACKED_SERVERS } from './fleet-series.ts';

function frame(second: number, servers: FleetTaskFrame['servers']): FleetFrame {
  const figures = { plannedRps: 10, unservedRps: 0, servedAccuracy: 0.9, plannedAccuracy: 0.95, replicas: 2 };
  const digits = { servers, ...figures, hosts: Object.keys(servers).length };
  return { seq: second, atMs: 1000 * second, spanMs: 1000, tasks: { digits } };
}

test('demand is stacked by server and versions are banded, in the order of the fleet; who left comes last', () => {
  const frames = [
    frame(1, { a: [1, 4], old: [3, 1] }),
    frame(2, { b: [2, 6], a: [1, 5] }),
    frame(3, { b: [2, 7], a: [2, 5] }),
  ];
  const series = fleetTaskSeriesOf(frames, 'digits', ['b', 'a', 'idle'], 1000, 3000);
  expect(series.x).toEqual([1, 2, 3]);
  expect(series.demandRps).toEqual([5, 11, 12]);
  expect(series.stack).toEqual([
    { server: 'b', values: [0, 6, 7] },
    { server: 'a', values: [4, 5, 5] },
    { server: 'old', values: [1, 0, 0] },
  ]);
  expect(series.bands).toEqual([
    { server: 'b', versions: [null, 2, 2] },
    { server: 'a', versions: [1, 1, 2] },
    { server: 'old', versions: [3, null, null] },
  ]);
  expect(series.servedPercent).toEqual([90, 90, 90]);
});

test('of very many servers the smallest share an area, and nothing of the demand is lost', () => {
  const count = STACKED_SERVERS + 20;
  const names = Array.from({ length: count }, (_, i) => `s${i}`);
  const servers = Object.fromEntries(names.map((name, i) => [name, [1, i] as const]));
  const { stack, demandRps } = fleetTaskSeriesOf([frame(1, servers)], 'digits', names, 0, 2000);
  expect(stack).toHaveLength(STACKED_SERVERS + 1);
  expect(stack.at(-1)!.server).toBeUndefined();
  expect(stack.reduce((sum, { values }) => sum + values[0]!, 0)).toBe(demandRps[0]);
});

test('where frames are missing there is a gap, and no line over it', () => {
  const series = fleetTaskSeriesOf(
    [frame(1, { a: [1, 4] }), frame(30, { a: [1, 4] })],
    'digits',
    ['a'],
    0,
    30_000,
  );
  expect(series.demandRps).toEqual([4, null, 4]);
  expect(series.stack[0]!.values).toEqual([4, null, 4]);
});
