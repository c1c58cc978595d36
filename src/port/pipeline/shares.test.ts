import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describeTarget } from '../../engine/target.ts';
import { withMetadata } from '../../graph/model.ts';
import { randomNetwork } from '../../transform/prune/networks.fixture.ts';
import type { SharedSteps } from '../step-cache.ts';
import { stripes } from '../stripes.fixture.ts';
import { portFamily, portShare, standardSteps } from './pipeline.ts';
import { type Chain, planBranches } from './plan.ts';
import { sharesOf } from './shares.ts';
import type { PortOptions, PortProgress, PortSteps } from './types.ts';

describe('shares', () => {
  const plan = (chain: Chain, criteria: ('l1' | 'l2')[] = ['l1', 'l2']) =>
    planBranches({
      ...{ bases: 2, ratios: [0.25, 0.5, 0.625, 0.75, 0.875], criteria, distilled: [false, true], chain },
    });

  it.each(['nearest', 'base', 'previous'] as const)(
    'have every branch once, with the one that it is pruned from (chain: %s)',
    (chain) => {
      for (const workers of [1, 2, 3, 7, 60]) {
        const shares = sharesOf(plan(chain), workers);
        expect(shares).toHaveLength(workers);
        expect(shares.flat().sort((a, b) => a.index - b.index)).toEqual(plan(chain));
        for (const share of shares) {
          const own = share.map(({ index }) => index);
          expect(own).toEqual(own.toSorted((a, b) => a - b));
          for (const { parent } of share) if (parent !== undefined) expect(own).toContain(parent);
        }
        expect(sharesOf(plan(chain), workers)).toEqual(shares);
      }
    },
  );

  it('are of about the same work', () => {
    // 0.5, 0.625, 0.75 and 0.875 hang together: 0.25 + 0.14 + 0.06 + 0.02 is less than the 0.56 of 0.25 alone.
    const one = planBranches({
      ...{ bases: 1, ratios: [0.25, 0.5, 0.625, 0.75, 0.875], criteria: ['l2' as const] },
      ...{ distilled: [false], chain: 'nearest' },
    });
    expect(sharesOf(one, 2).map((share) => share.map(({ ratio }) => ratio))).toEqual([
      [0.25],
      [0.5, 0.875, 0.625, 0.75],
    ]);
    expect(sharesOf(one, 3)[2]).toEqual([]);
  });
});

describe('a porting that several share', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-shares-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  const base = withMetadata(randomNetwork(['bn-relu', 'residual'], 'gap', 4), {
    'bonsai.backbone': '{"name":"tiny"}',
  });
  const dataset = stripes();
  const constant = (value: number) => ({ count: 1, mean: value, median: value, min: value, max: value });
  const steps: PortSteps = {
    ...standardSteps({ threads: 1 }),
    latency: async ({ byteLength }) => constant(byteLength / 1000),
    write: async () => {},
  };
  const optionsWith = (work: string, more: Partial<PortOptions> = {}): PortOptions => ({
    ratios: [0.25, 0.5],
    criteria: ['l2', 'taylor'],
    pruning: { align: 1 },
    recipe: () => ({
      phases: [{ epochs: 1 }],
      batch: 8,
      learningRate: 0.01,
      schedule: 'constant',
      optimizer: { name: 'sgd', momentum: 0.9, nesterov: false, weightDecay: 0 },
    }),
    keep: 'all',
    seed: 1,
    target: describeTarget({ cpus: 1 }),
    workDirectory: join(folder, work),
    clock: { nowMs: () => 0, epochMs: () => 0 },
    ...more,
  });

  /** A bucket in memory. */
  const sharing = (): SharedSteps & { readonly files: Map<string, Uint8Array> } => {
    const files = new Map<string, Uint8Array>();
    return {
      files,
      read: async (name) => files.get(name),
      write: async (name, bytes) => void files.set(name, bytes),
    };
  };

  it('ends with the family of one worker, byte by byte, and trains nothing twice', async () => {
    const alone = await portFamily(base, dataset, optionsWith('alone'), steps);
    const sharedSteps = sharing();
    const trained: string[][] = [[], [], []];
    const by = (worker: number) =>
      optionsWith(`worker-${worker}`, {
        sharedSteps,
        onProgress: ({ step, subject, state }: PortProgress) => {
          if (step === 'fine-tune' && state === 'finished') trained[worker]!.push(subject);
        },
      });
    const share = (index: number) => portShare(base, dataset, by(index), steps, { index, count: 2 });
    // One after the other, so that it is known who is the last; each on a disk of its own.
    expect(await share(0)).toEqual({ branches: 2, isComplete: true, isLast: false });
    expect(await share(1)).toEqual({ branches: 2, isComplete: true, isLast: true });
    // A pod that is started again, on a fresh disk, finds that all is done.
    expect(await portShare(base, dataset, by(2), steps, { index: 0, count: 2 })).toMatchObject({
      isLast: true,
    });
    expect(trained[0]).toHaveLength(2);
    expect(trained[1]).toHaveLength(2);
    const joined = await portFamily(base, dataset, by(2), steps);
    expect(trained[2]).toEqual([]);
    expect(joined).toEqual(alone);
    expect(joined.models.get(2)).toEqual(alone.models.get(2));
  });

  it('loses nothing with a worker, a damaged file or a share that nobody did', async () => {
    const alone = await portFamily(base, dataset, optionsWith('alone'), steps);
    const sharedSteps = sharing();
    const abort = new AbortController();
    let tunings = 0;
    const killed = portShare(
      base,
      dataset,
      optionsWith('killed', {
        sharedSteps,
        signal: abort.signal,
        onProgress: ({ step, state }: PortProgress) => {
          if (step === 'fine-tune' && state === 'finished' && ++tunings === 2) abort.abort();
        },
      }),
      steps,
      { index: 0, count: 1 },
    );
    await expect(killed).rejects.toMatchObject({ code: 'aborted' });
    const [name, bytes] = [...sharedSteps.files].find(([name]) => name.startsWith('fine-tune'))!;
    sharedSteps.files.set(name, bytes.subarray(0, bytes.length - 1));
    const states: string[] = [];
    const joined = await portFamily(
      base,
      dataset,
      optionsWith('another', {
        sharedSteps,
        onProgress: ({ step, state }: PortProgress) => void states.push(`${step} ${state}`),
      }),
      steps,
    );
    expect(joined).toEqual(alone);
    // Of four, one was kept whole.
    expect(states.filter((state) => state === 'fine-tune finished')).toHaveLength(3);
  });

  it('measures nothing beside other workers, and does nothing where there is nothing to do', async () => {
    const measured: string[] = [];
    const watched: PortSteps = {
      ...steps,
      latency: async () => {
        measured.push('latency');
        return constant(1);
      },
      throughput: async () => {
        measured.push('throughput');
        return { throughputRps: constant(1), concurrency: 2 };
      },
    };
    const options = optionsWith('work', { int8: true, onProgress: () => measured.push('a step') });
    const idle = await portShare(base, dataset, options, watched, { index: 7, count: 9 });
    expect(idle).toEqual({ branches: 0, isComplete: true, isLast: false });
    expect(measured).toEqual([]);
    await portShare(base, dataset, { ...options, onProgress: () => {} }, watched, { index: 0, count: 9 });
    expect(measured).toEqual([]);
  });

  it('is not through where its budget was spent', async () => {
    let nowMs = 0;
    const clock = { nowMs: () => (nowMs += 1000), epochMs: () => 0 };
    const share = { index: 0, count: 1 };
    const short = optionsWith('work', { clock, budgetMs: 1 });
    expect(await portShare(base, dataset, short, steps, share)).toMatchObject({
      isComplete: false,
      isLast: false,
    });
    expect(await portShare(base, dataset, optionsWith('work'), steps, share)).toMatchObject({ isLast: true });
  });
});
