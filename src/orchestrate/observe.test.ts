import { expect, test } from 'vitest';
import { observationBetween, type Scrape } from './observe.ts';

function scrape(atMs: number, series: Record<string, number>, more: Partial<Scrape> = {}): Scrape {
  const requests = new Map([['digits', new Map(Object.entries(series))]]);
  return {
    atMs,
    requests,
    countedAt: 'end',
    serving: new Map(),
    loading: new Map(),
    queued: new Map(),
    cpuBudget: 1,
    ...more,
  };
}

const demand = (before: Scrape, after: Scrape) => observationBetween(before, after)?.demandRps.get('digits');

test('demand is the growth of all series over the time between', () => {
  // (30 + 5) / 0.5 s
  expect(demand(scrape(1000, { v1: 1000 }), scrape(1500, { v1: 1030, v2: 5 }))).toBe(70);
});

test('a series of an unloaded version that is gone takes nothing away', () => {
  expect(demand(scrape(0, { v1: 1000, v2: 5 }), scrape(1000, { v2: 25 }))).toBe(20);
});

test('a counter that fell was restarted', () => {
  expect(demand(scrape(0, { v1: 1000 }), scrape(2000, { v1: 8 }))).toBe(4);
});

test('requests that pile up in the queue are demand too', () => {
  const before = scrape(0, { v1: 0 }, { queued: new Map([['digits', 2]]) });
  const after = scrape(1000, { v1: 10 }, { queued: new Map([['digits', 14]]) });
  expect(demand(before, after)).toBe(22);
  // The queue of 14 was dropped by a restart, 3 requests were counted since.
  expect(demand(after, scrape(2000, { v1: 3 }))).toBe(0);
});

test('utilization is CPU used over the budget, and unknown without CPU', () => {
  const at = (atMs: number, cpuSeconds: number | undefined) => scrape(atMs, {}, { cpuSeconds, cpuBudget: 2 });
  // 1.5 s of CPU in 1 s on 2 cores.
  expect(observationBetween(at(0, 10), at(1000, 11.5))?.utilization).toBe(0.75);
  expect(observationBetween(at(0, 10), at(1000, 0.5))?.utilization).toBe(0.25);
  expect(observationBetween(at(0, undefined), at(1000, 1))?.utilization).toBeUndefined();
  expect(observationBetween(at(0, 1), at(0, 2))).toBeUndefined();
});

test('requests without deadline are no demand, and refusals, give-ups and late answers are violations', () => {
  const scrape = (atMs: number, all: number, batch: number, late: number): Scrape => ({
    atMs,
    requests: new Map([['digits', new Map([['accepted', all]])]]),
    batchRequests: new Map([['digits', batch]]),
    violations: new Map([['digits', new Map([['late', late]])]]),
    countedAt: 'arrival',
    serving: new Map(),
    loading: new Map(),
    queued: new Map(),
    cpuBudget: 1,
  });
  const seen = observationBetween(scrape(0, 100, 40, 3), scrape(2000, 160, 80, 5));
  // 60 more of which 40 are of the batch class: 20 in 2 s.
  expect(seen?.demandRps.get('digits')).toBe(10);
  expect(seen?.violations.get('digits')).toBe(2);
});

test('tells by which versions a task was answered, and how accurate they are', () => {
  const at = (atMs: number, versions: Readonly<Record<number, number>>) => {
    const answers = Object.entries(versions).map(
      ([version, count]) => [Number(version), { count, accuracy: version === '1' ? 0.9 : 0.8 }] as const,
    );
    return scrape(atMs, {}, { answers: new Map([['digits', new Map(answers)]]) });
  };
  const answered = (before: Scrape, after: Scrape) =>
    observationBetween(before, after)?.answered.get('digits');
  // Version 1 gave 10 answers, version 2, which is new, 30.
  const seen = answered(at(0, { 1: 100 }), at(1000, { 1: 110, 2: 30 }))!;
  expect(seen.version).toBe(2);
  expect(seen.accuracy).toBeCloseTo((10 * 0.9 + 30 * 0.8) / 40);
  expect(answered(at(0, { 1: 100, 2: 50 }), at(1000, { 2: 50 }))).toBeUndefined();
});

test('a task that comes back with what was counted before is no demand yet', () => {
  const without: Scrape = { ...scrape(0, {}), requests: new Map() };
  const back = scrape(1000, { accepted: 650 });
  expect(demand(without, back)).toBeUndefined();
  expect(demand(back, scrape(2000, { accepted: 653 }))).toBe(3);
});
