import { describe, expect, it } from 'vitest';
import {
  BURST_CPU_MS,
  CpuGovernor,
  MAX_DEFERRED_CPU_MS,
  type QuotaHolder,
  SHORTEST_LAST_REST_MS,
} from './cpu-governor.ts';

/** A process whose time and CPU time pass as the test says. */
class FakeProcess {
  nowMs = 1_000;
  cpuMs = 500;
  loadMs = 100;
  readonly clock = { nowMs: () => this.nowMs, epochMs: () => this.nowMs };
  readonly meter = { processCpuMs: () => this.cpuMs, loadCpuMs: () => this.loadMs };

  governor(quotaCores: number, slots = 1, holder: QuotaHolder = 'server'): CpuGovernor {
    return new CpuGovernor({ quotaCores, slots, holder, clock: this.clock, meter: this.meter });
  }

  /** Time in which the process uses so much CPU time. */
  pass(ms: number, { cpuMs = 0, loadMs = 0 } = {}): void {
    this.nowMs += ms;
    this.cpuMs += cpuMs + loadMs;
    this.loadMs += loadMs;
  }

  /** Starts jobs of so much computing and overhead one after the other, each as soon as it may. @returns jobs done */
  saturate(governor: CpuGovernor, forMs: number, job: { computeMs: number; overheadMs?: number }): number {
    const endMs = this.nowMs + forMs;
    const { computeMs, overheadMs = 0 } = job;
    let jobs = 0;
    while (this.nowMs < endMs) {
      this.rest(governor);
      this.pass(computeMs + overheadMs, { cpuMs: computeMs + overheadMs });
      governor.end({ computeMs, threads: 1, requests: 1 });
      jobs++;
    }
    return jobs;
  }

  /** Waits as a timer does, in whole milliseconds. @returns how long */
  rest(governor: CpuGovernor): number {
    const startMs = this.nowMs;
    for (let restMs = governor.restMs(); restMs > 0; restMs = governor.restMs())
      this.pass(Math.max(1, Math.ceil(restMs)));
    return this.nowMs - startMs;
  }
}

describe('a governor of CPU time', () => {
  it.each([
    [0.5, 8],
    [0.5, 0.1],
    [0.2, 30],
    [0.9, 3],
  ])('holds a process to %f CPUs over any second, with jobs of %f ms', (quota, computeMs) => {
    const fake = new FakeProcess();
    const governor = fake.governor(quota);
    for (let second = 0; second < 10; second++) {
      const before = { cpuMs: fake.cpuMs, nowMs: fake.nowMs };
      fake.saturate(governor, 1_000, { computeMs });
      const [usedMs, spanMs] = [fake.cpuMs - before.cpuMs, fake.nowMs - before.nowMs];
      expect(usedMs).toBeLessThanOrEqual(quota * spanMs + BURST_CPU_MS + computeMs);
      // The rests are no longer than they have to be, but for the timer.
      expect(usedMs).toBeGreaterThan(quota * (spanMs - 2) - BURST_CPU_MS - computeMs);
    }
  });

  it('lets a burst pass after a pause, and no more', () => {
    const fake = new FakeProcess();
    const governor = fake.governor(0.5);
    fake.pass(60_000);
    let started = 0;
    for (; governor.restMs() === 0; started++) fake.pass(5, { cpuMs: 5 });
    // 20 ms are at hand and each job of 5 ms gives 2.5 back: after 9 of them 2.5 ms are owed.
    expect(started).toBe(9);
    expect(governor.restMs()).toBeCloseTo(5);
    expect(governor.restUntilMs).toBeCloseTo(fake.nowMs + 5);
  });

  it('counts what the whole process uses, also beside jobs', () => {
    const fake = new FakeProcess();
    const governor = fake.governor(0.5);
    fake.pass(100, { cpuMs: 100 }); // 20 at hand + 50 given - 100 used
    expect(governor.restMs()).toBeCloseTo(30 / 0.5);
  });

  it('makes up for loads by half of the quota only, so that neither ends the other', () => {
    const fake = new FakeProcess();
    const governor = fake.governor(0.5);
    const quietJobs = fake.saturate(governor, 2_000, { computeMs: 5 });
    fake.pass(1_000, { loadMs: 1_200 }); // No job needs the 500 of this second: all pay for the load, and 700 stay.
    const nextJobs = fake.saturate(governor, 2_000, { computeMs: 5 });
    expect(nextJobs / quietJobs).toBeGreaterThan(0.48);
    expect(nextJobs / quietJobs).toBeLessThan(0.56);
    fake.saturate(governor, 1_000, { computeMs: 5 }); // 0.25 × 3 s: all is paid back.
    expect(fake.saturate(governor, 2_000, { computeMs: 5 }) / quietJobs).toBeGreaterThan(0.95);
  });

  it('makes up for no more of loads than its bound, and for nothing of a start', () => {
    const fake = new FakeProcess();
    const governor = fake.governor(0.5);
    fake.pass(1, { loadMs: 100 * MAX_DEFERRED_CPU_MS, cpuMs: BURST_CPU_MS + 1 });
    const slowUntilMs = fake.nowMs + MAX_DEFERRED_CPU_MS / 0.25;
    while (fake.nowMs < slowUntilMs) fake.saturate(governor, 100, { computeMs: 5 });
    const jobs = fake.saturate(governor, 1_000, { computeMs: 5 });
    expect(jobs).toBeGreaterThan(90); // 5 ms each at half a CPU: 100.
    fake.pass(1, { cpuMs: 10_000, loadMs: 10_000 });
    governor.restart();
    expect(governor.restMs()).toBe(0);
  });

  it('ends a rest that other work draws out, so that a storm of refusals does not end all answers', () => {
    const fake = new FakeProcess();
    const governor = fake.governor(0.5);
    fake.pass(100, { cpuMs: 90 }); // 20 + 50 − 90
    governor.end({ computeMs: 90, threads: 1, requests: 1 });
    const plannedMs = 20 / 0.5;
    const startMs = fake.nowMs;
    while (governor.restMs() > 0) fake.pass(1, { cpuMs: 1 });
    expect(fake.nowMs - startMs).toBe(2 * plannedMs);
    expect(plannedMs).toBeGreaterThan(SHORTEST_LAST_REST_MS);
    // What the storm used is deferred, 20 + 80 / 2, and takes half of the quota now: the next job rests longer.
    expect(governor.restMs()).toBe(0);
    fake.pass(10, { cpuMs: 10 });
    governor.end({ computeMs: 10, threads: 1, requests: 1 });
    expect(governor.restMs()).toBeCloseTo((10 - 2.5) / 0.25);
    fake.pass(500);
    fake.pass(50, { cpuMs: 40 }); // 20 at hand + 25 given: nothing of it is owed any more.
    expect(governor.restMs()).toBe(0);
  });
});

it('holds a process whose requests cost more beside their inferences than in them', () => {
  const fake = new FakeProcess();
  const governor = fake.governor(0.5);
  const startMs = fake.nowMs;
  const startCpuMs = fake.cpuMs;
  while (fake.nowMs < startMs + 3_000) {
    // Eight clients: their next requests are decoded while the slot rests.
    for (let restMs = governor.restMs(), i = 0; restMs > 0; restMs = governor.restMs(), i++)
      fake.pass(Math.max(1, Math.ceil(restMs)), { cpuMs: i < 8 ? 1 : 0 });
    for (let job = 0; job < 8; job++) {
      fake.pass(0.2, { cpuMs: 0.2 });
      governor.end({ computeMs: 0.2, threads: 1, requests: 1 });
    }
  }
  expect((fake.cpuMs - startCpuMs) / (fake.nowMs - startMs)).toBeLessThan(0.5 * 1.05);
});

describe('what is expected of a job under a quota', () => {
  it('is the time for which it holds its slot, the rest included', () => {
    const fake = new FakeProcess();
    expect(fake.governor(0.5).paceOf(1)).toBe(2);
    expect(fake.governor(1).paceOf(1)).toBe(1);
    expect(fake.governor(1.5, 2).paceOf(1)).toBeCloseTo(4 / 3);
    expect(fake.governor(2, 1).paceOf(4)).toBe(2);
    const governor = fake.governor(0.25);
    fake.saturate(governor, 1_000, { computeMs: 4 });
    const startMs = fake.nowMs;
    const jobs = fake.saturate(governor, 4_000, { computeMs: 4 });
    expect(4 * governor.paceOf(1)).toBeCloseTo((fake.nowMs - startMs) / jobs, 0);
  });

  it('follows what requests cost beside their inference', () => {
    const fake = new FakeProcess();
    const governor = fake.governor(0.5);
    fake.saturate(governor, 5_000, { computeMs: 2, overheadMs: 0.5 });
    expect(governor.overheadMs).toBeCloseTo(0.5);
    expect(governor.overheadPace).toBe(2);
    expect(governor.paceOf(1)).toBe(2);
  });

  it('asks for less rest where others use the CPU meanwhile', () => {
    const fake = new FakeProcess();
    const governor = fake.governor(0.5);
    for (let job = 0; job < 500; job++) {
      fake.rest(governor);
      fake.pass(8, { cpuMs: 6 });
      governor.end({ computeMs: 8, threads: 1, requests: 1 });
    }
    expect(governor.paceOf(1)).toBeCloseTo(1.5); // 6 ms of CPU time take 12 ms of half a CPU.
  });

  it('never rests where the system holds the quota, and learns the same', () => {
    const fake = new FakeProcess();
    const governor = fake.governor(0.2, 1, 'system');
    for (let job = 0; job < 500; job++) {
      expect(governor.restMs()).toBe(0);
      // Ten jobs of 1 ms at once, then the system stops it until their CPU time is paid for.
      fake.pass(job % 10 === 9 ? 41 : 1, { cpuMs: 1 });
      governor.end({ computeMs: 0.6, threads: 1, requests: 1 });
    }
    expect(governor.rests).toBe(false);
    expect(governor.restUntilMs).toBe(0);
    expect(governor.paceOf(1) * 0.6 + governor.overheadPace * governor.overheadMs).toBeCloseTo(5, 1);
  });

  it('does not lay what refusals cost on the requests that are answered', () => {
    const fake = new FakeProcess();
    const governor = fake.governor(0.5);
    for (let job = 0; job < 200; job++) {
      fake.rest(governor);
      for (let refusal = 0; refusal < 9; refusal++) {
        fake.pass(1, { cpuMs: 0.5 });
        governor.noteRefusal();
      }
      fake.pass(2.5, { cpuMs: 2.5 });
      governor.end({ computeMs: 2, threads: 1, requests: 1 });
    }
    expect(governor.overheadMs).toBeCloseTo(0.5);
  });

  it('learns nothing from times in which other work may weigh more', () => {
    const fake = new FakeProcess();
    const governor = fake.governor(0.5);
    for (let job = 0; job < 100; job++) {
      fake.pass(100, { cpuMs: 20 });
      governor.end({ computeMs: 1, threads: 1, requests: 1 });
    }
    expect([governor.overheadMs, governor.paceOf(1)]).toEqual([0, 2]);
  });
});
