import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type DemandProfile, demandAt, demandSteps, dueTimes, durationMsOf } from './arrivals.ts';

const even = (profile: DemandProfile) => [...dueTimes(profile, { spacing: 'even', seed: 1 })];

describe('due times', () => {
  it('lie at even distances from 0 under constant demand', () => {
    expect(even({ kind: 'constant', rps: 4, durationMs: 1000 })).toEqual([0, 250, 500, 750]);
  });

  it('grow as 1, 3, 5, 9, 17, 33, 65, 129 under exponential demand, as in the thesis', () => {
    const profile: DemandProfile = { kind: 'exponential', startRps: 1, intervalMs: 1000, steps: 8 };
    const due = even(profile);
    const perSecond = Array.from(
      { length: 8 },
      (_, s) => due.filter((t) => Math.floor(t / 1000 + 1e-6) === s).length,
    );
    expect(perSecond).toEqual([1, 3, 5, 9, 17, 33, 65, 129]);
    expect(demandSteps(profile, 1000).map(({ rps }) => rps)).toEqual(perSecond);
  });

  it('end with a declining demand at 0', () => {
    const profile: DemandProfile = {
      kind: 'linear',
      startRps: 11,
      stepRps: -3,
      intervalMs: 50_000,
      steps: 99,
    };
    expect(demandSteps(profile, 1000).map(({ rps }) => rps)).toEqual([11, 8, 5, 2]);
    expect(durationMsOf(profile)).toBe(200_000);
    expect(even(profile)).toHaveLength(26 * 50);
  });

  it('follow the area under any demand, ascend, and stay within the profile', () => {
    const points = fc.array(fc.tuple(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 0, max: 200 })), {
      minLength: 2,
      maxLength: 8,
    });
    fc.assert(
      fc.property(points, fc.constantFrom('steps' as const, 'ramp' as const), (drawn, kind) => {
        let atMs = 0;
        const placed = drawn.map(([gapMs, rps], i) => {
          if (i > 0) atMs += gapMs;
          return { atMs, rps };
        });
        const profile: DemandProfile =
          kind === 'steps' ? { kind, points: placed, durationMs: atMs + 1000 } : { kind, points: placed };
        const durationMs = durationMsOf(profile);
        // The area by the midpoint rule is exact for pieces of whole ms that are straight lines.
        let area = 0;
        for (let t = 0; t < durationMs; t++) area += demandAt(profile, t + 0.5) / 1000;
        const due = even(profile);
        expect(Math.abs(due.length - area)).toBeLessThanOrEqual(1);
        expect(due.every((t, i) => t >= (due[i - 1] ?? 0) && t < durationMs)).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  it('follow a sine: its mean over a period, most of them in the first half', () => {
    const profile: DemandProfile = {
      kind: 'sine',
      meanRps: 50,
      amplitudeRps: 50,
      periodMs: 20_000,
      durationMs: 20_000,
    };
    const due = even(profile);
    expect(Math.abs(due.length - 1000)).toBeLessThanOrEqual(1);
    // ∫ over the half period: 50·10 + 50·(20/2π)·2 = 500 + 318.3 requests.
    expect(Math.abs(due.filter((t) => t < 10_000).length - 818.3)).toBeLessThan(2);
    expect(demandAt(profile, 5000)).toBeCloseTo(100);
  });

  it('are a Poisson process: exponential gaps, variance of counts near their mean', () => {
    const profile: DemandProfile = { kind: 'constant', rps: 100, durationMs: 200_000 };
    const due = dueTimes(profile, { spacing: 'poisson', seed: 7 });
    // 20 000 ± 4 standard deviations of √20 000.
    expect(Math.abs(due.length - 20_000)).toBeLessThan(566);
    const counts = new Float64Array(200);
    for (const t of due) counts[Math.floor(t / 1000)]!++;
    const mean = due.length / 200;
    const variance = counts.reduce((sum, n) => sum + (n - mean) ** 2, 0) / 199;
    // The index of dispersion of 200 Poisson counts has standard deviation √(2/199) = 0.1.
    expect(Math.abs(variance / mean - 1)).toBeLessThan(0.4);
  });

  it('depend on the seed alone', () => {
    const profile: DemandProfile = { kind: 'constant', rps: 20, durationMs: 5000 };
    const draw = (seed: number) => [...dueTimes(profile, { spacing: 'poisson', seed })];
    expect(draw(3)).toEqual(draw(3));
    expect(draw(3)).not.toEqual(draw(4));
  });

  it.each<[string, DemandProfile]>([
    ['a negative demand', { kind: 'constant', rps: -1, durationMs: 1000 }],
    ['no duration', { kind: 'constant', rps: 1, durationMs: 0 }],
    [
      'points that go back',
      {
        kind: 'ramp',
        points: [
          { atMs: 5, rps: 1 },
          { atMs: 2, rps: 1 },
        ],
      },
    ],
    ['no points', { kind: 'steps', points: [], durationMs: 1000 }],
    ['no steps', { kind: 'exponential', startRps: 1, intervalMs: 1000, steps: 0 }],
  ])('are refused for %s', (_, profile) => {
    expect(() => even(profile)).toThrowError(/Demand profile/);
  });
});
