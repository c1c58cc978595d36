import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  JOB_SCHEMA_VERSION,
  jobId,
  MAX_QUEUED_JOBS,
  type PortJob,
  queueJob,
  readJobs,
  settleJob,
} from './jobs.ts';
import { type Closer, chooseVariant, closerThan, formatConstraint, parseConstraints } from './request.ts';
import type { Lineage, Variant } from './types.ts';

const measurement = (median: number) => ({ count: 1, mean: median, median, min: median, max: median });

/** A variant of so many requests per second on the target "t"; each costs as much work as its time says. */
function makeVariant(version: number, accuracy: number, rps: number, lineage: Lineage = {}): Variant {
  const target = {
    fingerprint: 't',
    cpuModel: 'c',
    architecture: 'x64',
    cpus: 1,
    runtime: 'o',
    runtimeVersion: '1',
  };
  return {
    version,
    digest: String(version).repeat(64).slice(0, 64),
    sizeBytes: 1,
    accuracy: { test: accuracy, testCount: 100 },
    macs: 1e8 / rps,
    parameters: 1e7 / rps,
    lineage,
    profiles: {
      t: {
        target,
        measuredAt: '2026-01-01T00:00:00Z',
        latencyMs: measurement(1000 / rps),
        throughputRps: measurement(rps),
        concurrency: 2,
      },
    },
  };
}

const integers: Lineage = { quantization: { method: 'min-max', samples: 10 } };
const family = [
  makeVariant(1, 0.95, 10),
  makeVariant(2, 0.94, 30, integers),
  makeVariant(3, 0.93, 20),
  makeVariant(4, 0.9, 80),
];

function ask(text: string, variants = family) {
  const constraints = parseConstraints(text);
  const choice = chooseVariant(variants, constraints, 't')!;
  const closer = closerThan(choice, variants, constraints, 't');
  return { version: choice.variant.version, fits: choice.fits, closer: brief(closer) };
}

function brief(closer: Closer) {
  return closer.kind === 'none' ? closer.reason : [closer.goal, closer.parent.version, closer.below?.version];
}

describe('constraints', () => {
  it('are read with their units, and written as they are read', () => {
    const text = 'throughput>=40/s, latency<=20ms,latency<=2s,flops<=5M,params<=300k,accuracy>=90%';
    expect(parseConstraints(text)).toEqual([
      { metric: 'throughput', value: 40 },
      { metric: 'latency', value: 20 },
      { metric: 'latency', value: 2000 },
      { metric: 'flops', value: 5e6 },
      { metric: 'params', value: 3e5 },
      { metric: 'accuracy', value: 0.9 },
    ]);
    for (const constraint of parseConstraints(text))
      expect(parseConstraints(formatConstraint(constraint))).toEqual([constraint]);
  });

  it.each([
    ['throughput<=40', /bounded from below/],
    ['latency>=4ms', /bounded from above/],
    ['latency<=4', /"" is no unit of latency/],
    ['accuracy>=90', /a share lies in/],
    ['flops<=0', /should be positive/],
    ['speed>=3', /no bound on a figure/],
    ['', /no bound on a figure/],
    ['toString>=1', /no bound on a figure/],
  ])('%j is refused', (text, complaint) => {
    expect(() => parseConstraints(text)).toThrow(complaint);
  });
});

describe('a request', () => {
  it('is answered by the most accurate variant within the bounds', () => {
    expect(ask('throughput>=25/s')).toMatchObject({ version: 2, fits: true });
    expect(ask('throughput>=40/s')).toMatchObject({ version: 4, fits: true });
    expect(ask('latency<=60ms')).toMatchObject({ version: 2, fits: true });
    expect(ask('flops<=6M')).toMatchObject({ version: 2, fits: true });
    expect(ask('throughput>=25/s,accuracy>=0.92')).toMatchObject({ version: 2, fits: true });
  });

  it('for accuracy alone is answered by the cheapest', () => {
    expect(ask('accuracy>=0.93')).toMatchObject({ version: 2, fits: true });
    expect(ask('accuracy>=0.8')).toMatchObject({ version: 4, fits: true });
  });

  it('that nothing meets is answered by the variant that misses it by least', () => {
    expect(ask('throughput>=100/s')).toMatchObject({ version: 4, fits: false });
    // 0.94 / 0.96 and 30 / 60 against 0.9 / 0.96 and 80 / 60.
    expect(ask('throughput>=60/s,accuracy>=0.96')).toMatchObject({ version: 4, fits: false });
    expect(ask('throughput>=1/s', [{ ...family[0]!, profiles: {} }])).toMatchObject({ fits: false });
  });

  it('that is met with room to spare asks for one in between, pruned from the nearest in floating point', () => {
    // 3 has 20/s and can be pruned; 2, though nearer with its 30/s, is in integers.
    expect(ask('throughput>=40/s').closer).toEqual(['throughput=40/s', 3, 4]);
    expect(ask('latency<=25ms').closer).toEqual(['latency=25ms', 3, 4]);
    // 3 has 1e8 / 20 = 5 M.
    expect(ask('flops<=2.5M').closer).toEqual(['flops=0.5', 3, 4]);
    expect(ask('throughput>=160/s').closer).toEqual(['throughput=160/s', 4, undefined]);
    // √(1.25 M · …): 4 is the cheapest of all, so 0.6 of it.
    expect(ask('accuracy>=0.9').closer).toEqual(['flops=0.6', 4, undefined]);
    // From 3 (5 M) towards the next cheaper one, 2 (3.33 M): √(5 · 3.33) = 4.08.
    expect(ask('accuracy>=0.93').closer).toEqual(['flops=0.8165', 3, 2]);
  });

  it('prunes only what itself has the accuracy that is asked for', () => {
    // 3 has less to lose, but is below 0.94; of the 10 M of 1 a quarter may stay.
    expect(ask('flops<=2.5M,accuracy>=0.94').closer).toEqual(['flops=0.25', 1, undefined]);
  });

  it('asks for nothing where nothing closer can come', () => {
    expect(ask('throughput>=75/s').closer).toMatch(/closely/);
    expect(ask('throughput>=5/s').closer).toMatch(/more accurate/);
    expect(ask('accuracy>=0.99').closer).toMatch(/train a better base/);
    expect(ask('accuracy>=0.99,flops<=2M').closer).toMatch(/train a better base/);
    // Only 2 has both in reach, and it is in integers.
    const inIntegers = family.filter(({ version }) => version !== 1);
    expect(ask('throughput>=60/s,accuracy>=0.94', inIntegers).closer).toMatch(/could be pruned/);
  });
});

describe('porting jobs', () => {
  let root: string;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'bonsai-jobs-'));
    await mkdir(join(root, 'digits'));
  });
  afterEach(() => rm(root, { recursive: true }));

  const job = (goal: string, createdAt = '2026-01-01T00:00:00.000Z'): PortJob => {
    const wish = { task: 'digits', goal, parent: 'p', target: 't' };
    return {
      schemaVersion: JOB_SCHEMA_VERSION,
      id: jobId(wish),
      ...wish,
      request: 'throughput>=40/s',
      createdAt,
      state: 'queued',
    };
  };

  it('are kept once each, in order of time, and remember what became of them', async () => {
    expect(await readJobs(root, 'digits')).toEqual({ jobs: [], problems: [] });
    const [later, first] = [job('flops=0.5', '2026-01-02T00:00:00.000Z'), job('flops=0.4')];
    for (const each of [later, first, later]) await queueJob(root, each);
    expect((await readJobs(root, 'digits')).jobs).toEqual([first, later]);
    await settleJob(root, first, 'failed', 'Too narrow.');
    // The same wish again: the answer of before, and nothing queued.
    const again = await queueJob(root, job('flops=0.4', '2026-02-01T00:00:00.000Z'));
    expect(again).toEqual({ ...first, state: 'failed', outcome: 'Too narrow.' });
    expect(await readdir(join(root, 'digits', 'jobs'))).toHaveLength(2);
    // Speed may be measured better another time.
    const fast = job('throughput=40/s');
    await settleJob(root, fast, 'failed', 'The machine was busy.');
    expect(await queueJob(root, fast)).toEqual(fast);
    await settleJob(root, fast, 'done', 'Version 2 was made.');
    expect(await queueJob(root, fast)).toMatchObject({ state: 'done' });
  });

  it('are bounded', async () => {
    for (let i = 0; i < MAX_QUEUED_JOBS; i++) await queueJob(root, job(`flops=0.${100 + i}`));
    await expect(queueJob(root, job('flops=0.9'))).rejects.toMatchObject({ code: 'queue_full' });
  });

  it('that are damaged are named and do not hinder the others', async () => {
    await queueJob(root, job('flops=0.5'));
    const folder = join(root, 'digits', 'jobs');
    await writeFile(join(folder, '0123456789abcdef.json'), '{');
    await writeFile(join(folder, 'notes.txt'), 'mine');
    const { jobs, problems } = await readJobs(root, 'digits');
    expect(jobs).toHaveLength(1);
    expect(problems.map(({ message }) => message)).toEqual([expect.stringMatching(/0123456789abcdef\.json/)]);
  });
});
