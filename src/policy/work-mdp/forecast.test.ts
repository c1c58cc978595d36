import { expect, test } from 'vitest';
import type { DemandSample } from '../policy.ts';
import { forecastDefaults, forecastRps, learnDemand } from './forecast.ts';

const history = (...rates: readonly number[]): DemandSample[] =>
  rates.map((demandRps, i) => ({ atMs: 1000 * (i + 1), demandRps }));

test('steady demand is forecast as it is; caution adds what deviates', () => {
  const demand = history(...new Array<number>(60).fill(8));
  const memory = learnDemand(undefined, demand);
  expect(forecastRps(memory, demand, { nowMs: 60_000, caution: 0 })).toBeCloseTo(8, 9);
  const uneasy = learnDemand(undefined, history(4, 12, 4, 12, 4, 12));
  const at = (caution: number) => forecastRps(uneasy, [], { nowMs: 6_000, caution });
  expect(at(1)).toBeGreaterThan(at(0) + 1);
});

test('learning sample by sample is learning all at once, and nothing is learned twice', () => {
  const demand = history(3, 9, 5, 20, 18);
  let memory = learnDemand(undefined, demand.slice(0, 1));
  for (let i = 2; i <= demand.length; i++) memory = learnDemand(memory, demand.slice(0, i));
  expect(memory).toEqual(learnDemand(undefined, demand));
  expect(learnDemand(memory, demand)).toEqual(memory);
});

test('a lull does not end demand at once', () => {
  const demand = history(...new Array<number>(20).fill(10), 0, 0, 0);
  const memory = learnDemand(undefined, demand);
  // Of the last 10 s seven had 10 req/s: 0.8 · 7.
  expect(forecastRps(memory, demand, { nowMs: 23_000, caution: 0 })).toBeCloseTo(5.6, 9);
  expect(forecastRps(undefined, [], { nowMs: 0, caution: 0 })).toBe(forecastDefaults.minRps);
});

test('a rise that chance does not explain is followed at once; one that it does is not', () => {
  const forecast = (demand: readonly DemandSample[]) =>
    forecastRps(learnDemand(undefined, demand), [], { nowMs: 1e6, caution: 0 });
  expect(forecast(history(...new Array<number>(60).fill(1_000), 2_000))).toBeGreaterThan(1_850);
  // Four standard deviations of 4 requests in a second are 8: twelve are nothing new.
  expect(forecast(history(...new Array<number>(60).fill(4), 12))).toBeCloseTo(4 + 0.25 * 8, 1);
  // Demand that doubles every other second is expected to.
  const restless = Array.from({ length: 60 }, (_, i) => (i % 2 === 0 ? 1_000 : 2_000));
  expect(forecast(history(...restless, 2_500))).toBeLessThan(2_000);
});
