import { expect, test } from 'vitest';
import type { ContestedThroughput, Measurement, Profile } from '../../repository/types.ts';
import { mergeContested, missingParts, type WantedProfile } from './profile-parts.ts';

const measurement: Measurement = { count: 1000, mean: 1, median: 1, min: 1, max: 1 };
const bees: ContestedThroughput['by'] = { task: 'bees', version: 2 };

function contested(share: number, by = bees): ContestedThroughput {
  const rates = { maximumRps: 8, offeredRps: 8 * share, answeredRps: 8 * share };
  return { by, share, ...rates, throughputRps: measurement, concurrency: 2 };
}

function profile(parts: Partial<Profile> = {}): Profile {
  return {
    target: {
      fingerprint: 'f',
      cpuModel: 'c',
      architecture: 'x64',
      cpus: 1,
      runtime: 'onnxruntime',
      runtimeVersion: '1',
    },
    measuredAt: '2026-01-01T00:00:00.000Z',
    latencyMs: { ...measurement, p95: 1 },
    throughputRps: measurement,
    concurrency: 2,
    unbatchedRps: measurement,
    loadMs: 10,
    memoryBytes: 1e6,
    ...parts,
  };
}

const wanted: WantedProfile = { latencyRuns: 1000, memory: true, load: true };
const contest = { by: bees, shares: [0.25, 0.5] };
const kinds = (known: Profile | undefined, want: WantedProfile = wanted) =>
  missingParts(known, want).map((part) => (part.kind === 'contested' ? part.share : part.kind));

test('of a variant that is new on the target everything is measured', () => {
  expect(kinds(undefined)).toEqual(['latency', 'memory', 'load', 'throughput', 'unbatched']);
  expect(kinds(undefined, { ...wanted, contest })).toEqual([
    ...['latency', 'memory', 'load', 'throughput', 'unbatched', 0.25, 0.5],
  ]);
});

test('of a variant whose profile is complete nothing is, noisy or not', () => {
  expect(kinds(profile())).toEqual([]);
  expect(kinds(profile({ noisy: true }))).toEqual([]);
  expect(kinds(profile({ contested: [contested(0.5), contested(0.25)] }), { ...wanted, contest })).toEqual(
    [],
  );
});

test('what porting leaves out is measured later, and nothing twice', () => {
  const ported = profile({ latencyMs: measurement, loadMs: undefined, memoryBytes: undefined });
  expect(kinds(ported)).toEqual(['latency', 'memory', 'load']);
});

test('a profile from before there were unbatched throughputs gets one, and keeps the rest', () => {
  expect(kinds(profile({ unbatchedRps: undefined }))).toEqual(['unbatched']);
});

test('a latency over fewer runs than wanted is measured again', () => {
  expect(kinds(profile(), { ...wanted, latencyRuns: 2000 })).toEqual(['latency']);
});

test('what a remote target cannot tell is not asked for', () => {
  const remote = profile({ loadMs: undefined, memoryBytes: undefined });
  expect(kinds(remote, { ...wanted, memory: false, load: false })).toEqual([]);
});

test('shares are known of the very model and version that contests', () => {
  const known = profile({ contested: [contested(0.25), contested(0.5, { task: 'bees', version: 1 })] });
  expect(kinds(known, { ...wanted, contest })).toEqual([0.5]);
  const aged = profile({ contested: [contested(0.25, { ...bees, digest: 'a' }), contested(0.5)] });
  const renumbered = { by: { ...bees, digest: 'b' }, shares: [0.25, 0.5] };
  expect(kinds(aged, { ...wanted, contest: renumbered })).toEqual([0.25]);
});

test('newer contested throughputs take the place of older ones of the same model and share', () => {
  const old = [contested(0.25), contested(0.5, { task: 'ants', version: 1 })];
  const fresh = [{ ...contested(0.5) }, { ...contested(0.25), maximumRps: 9 }];
  expect(mergeContested(old, fresh)).toEqual([old[1], fresh[1], fresh[0]]);
});

test('what was measured beside a network that bore the number before goes', () => {
  const old = contested(0.25, { ...bees, digest: 'a' });
  const fresh = contested(0.25, { ...bees, digest: 'b' });
  expect(mergeContested([old], [fresh])).toEqual([fresh]);
});

test('a network that has another number by now is the same one', () => {
  const old = contested(0.25, { ...bees, digest: 'a' });
  const renumbered = { ...bees, version: 5, digest: 'a' };
  const fresh = contested(0.25, renumbered);
  expect(mergeContested([old], [fresh])).toEqual([fresh]);
  expect(
    kinds(profile({ contested: [old] }), { ...wanted, contest: { by: renumbered, shares: [0.25] } }),
  ).toEqual([]);
});
