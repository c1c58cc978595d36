import { expect, test } from 'vitest';
import { describeForeignTarget, describeTarget } from '../../engine/target.ts';
import type { ContestedThroughput, Measurement, Profile, Target, Variant } from '../../repository/types.ts';
import { keptShare, relativeThroughputs } from './relative-throughput.ts';

function around(median: number, min: number, max: number): Measurement {
  return { count: 3, mean: median, median, min, max };
}

const one = describeTarget({ cpus: 1 });
const two = describeTarget({ cpus: 2 });

function profile(target: Target, throughputRps: Measurement, parts: Partial<Profile> = {}): Profile {
  const latencyMs = around(1, 1, 1);
  return { target, measuredAt: '2026-01-01T00:00:00Z', latencyMs, throughputRps, concurrency: 2, ...parts };
}

function variant(version: number, profiles: readonly Profile[]): Variant {
  return {
    version,
    digest: '0'.repeat(64),
    sizeBytes: 1,
    accuracy: { test: 0.9, testCount: 100 },
    macs: 1,
    parameters: 1,
    lineage: {},
    profiles: Object.fromEntries(profiles.map((entry) => [entry.target.fingerprint, entry])),
  };
}

function contested(share: number, throughputRps: Measurement, version = 2): ContestedThroughput {
  const rates = { maximumRps: 8, offeredRps: 8 * share, answeredRps: 8 * share };
  return { by: { task: 'bees', version }, share, ...rates, throughputRps, concurrency: 2 };
}

test("multiples are Table 5.1's: medians, and the extremes that lie farthest apart", () => {
  const variants = [
    variant(1, [
      profile(one, around(10, 8, 12.5), {
        contested: [contested(0.5, around(4, 4, 5)), contested(0.25, around(7, 6.25, 7.2))],
      }),
      profile(two, around(21, 20, 24)),
    ]),
    variant(2, [profile(one, around(100, 100, 100))]),
  ];
  const table = relativeThroughputs(variants, one.fingerprint)!;
  expect(table.base).toEqual(one);
  expect(table.situations).toEqual([
    { cpus: 2 },
    { cpus: 1, contest: { by: { task: 'bees', version: 2 }, share: 0.25 } },
    { cpus: 1, contest: { by: { task: 'bees', version: 2 }, share: 0.5 } },
  ]);
  const plain = { noisy: false, short: false };
  expect(table.rows).toEqual([
    {
      version: 1,
      cells: [
        // 21/10; 20/12.5; 24/8.
        { median: 2.1, low: 1.6, high: 3, ...plain },
        // 7/10; 6.25/12.5; 7.2/8.
        { median: 0.7, low: 0.5, high: 0.9, ...plain },
        { median: 0.4, low: 0.32, high: 0.625, ...plain },
      ],
    },
    { version: 2, cells: [undefined, undefined, undefined] },
  ]);
  // The same from the view of the other target.
  expect(relativeThroughputs(variants, two.fingerprint)).toEqual(table);
});

test('a single free target, or another machine beside it, has nothing to compare', () => {
  const elsewhere = describeForeignTarget({ host: 'edge', cpus: 2, runtime: 'triton', runtimeVersion: '2' });
  const free = profile(one, around(10, 10, 10));
  expect(relativeThroughputs([variant(1, [free])], one.fingerprint)).toBeUndefined();
  const both = variant(1, [free, profile(elsewhere, around(30, 30, 30))]);
  expect(relativeThroughputs([both], one.fingerprint)).toBeUndefined();
  expect(relativeThroughputs([variant(1, [])], one.fingerprint)).toBeUndefined();
});

test('doubt about either figure is doubt about their ratio', () => {
  const cellOf = (free: Partial<Profile>, beside: Partial<ContestedThroughput>) => {
    const measured = { ...contested(0.25, around(7, 7, 7)), ...beside };
    const variants = [variant(1, [profile(one, around(10, 10, 10), { ...free, contested: [measured] })])];
    return relativeThroughputs(variants, one.fingerprint)!.rows[0]!.cells[0]!;
  };
  expect(cellOf({}, {})).toMatchObject({ noisy: false, short: false });
  expect(cellOf({ noisy: true }, {})).toMatchObject({ noisy: true });
  expect(cellOf({}, { noisy: true })).toMatchObject({ noisy: true });
  // 25 % of 8 is 2 per second.
  expect(cellOf({}, { answeredRps: 1.7 })).toMatchObject({ noisy: false, short: true });
});

test('a share is kept if its requests leave and are answered nearly as often as they should', () => {
  const rates = { share: 0.5, maximumRps: 100, offeredRps: 50, answeredRps: 46 };
  expect(keptShare(rates)).toBe(true);
  expect(keptShare({ ...rates, offeredRps: 44 })).toBe(false);
  expect(keptShare({ ...rates, answeredRps: 44 })).toBe(false);
});
