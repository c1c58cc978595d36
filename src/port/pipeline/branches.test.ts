import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { describeTarget } from '../../engine/target.ts';
import { type Model, withGraph, withMetadata } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { renameValues } from '../../graph/walk.ts';
import { randomNetwork } from '../../transform/prune/networks.fixture.ts';
import { stripes } from '../stripes.fixture.ts';
import { withNamesOf } from './bases.ts';
import { mergeVariants } from './family.ts';
import { portFamily, portToGoal, standardSteps } from './pipeline.ts';
import { LINEAGE_KEY } from './steps.ts';
import type { Family, FoundVariant, PortOptions, PortSteps } from './types.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-branches-'));
});
afterEach(() => rm(folder, { recursive: true }));

const own = { 'bonsai.backbone': '{"name":"tiny"}' };
const first = withMetadata(randomNetwork(['bn-relu', 'residual'], 'gap', 4), own);
const second = withMetadata(randomNetwork(['conv', 'bn-relu'], 'gap', 5), own);
const dataset = stripes();
const target = describeTarget({ cpus: 1 });
const constant = (value: number) => ({ count: 1, mean: value, median: value, min: value, max: value });

/** Real training and scoring; latency as the size of the file, so that families do not depend on the machine. */
const steps: PortSteps = {
  ...standardSteps({ threads: 1 }),
  latency: async ({ byteLength }) => constant(byteLength / 1000),
  write: async () => {},
};

function optionsWith(more: Partial<PortOptions> = {}): PortOptions {
  return {
    ratios: [0.5],
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
    target,
    workDirectory: folder,
    clock: { nowMs: () => 0, epochMs: () => 0 },
    ...more,
  };
}

const lineageOf = (family: Family, version: number) =>
  JSON.parse(readModel(family.models.get(version)!).metadata.get(LINEAGE_KEY)!);

it('bases, criteria and distillation multiply, and every file tells its lineage', async () => {
  const found: FoundVariant[][] = [];
  const family = await portFamily(
    [first, second],
    dataset,
    optionsWith({
      criteria: ['l2', 'fpgm'],
      distillation: { temperature: 4, weight: 0.5, alsoWithout: true },
      onFound: (variants) => void found.push([...variants]),
    }),
    steps,
  );
  expect(found.map((variants) => variants.length)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  expect(found.at(-1)!.map(({ name }) => name)).toEqual([
    'base 1',
    'base 2',
    ...['ratio 0.5, l2, of base 1', 'ratio 0.5, l2, distilled, of base 1', 'ratio 0.5, fpgm, of base 1'],
    ...['ratio 0.5, l2, of base 2', 'ratio 0.5, fpgm, distilled, of base 1'],
    ...[
      'ratio 0.5, l2, distilled, of base 2',
      'ratio 0.5, fpgm, of base 2',
      'ratio 0.5, fpgm, distilled, of base 2',
    ],
  ]);
  const bases = family.variants.filter(({ lineage }) => lineage.parent === undefined);
  expect(bases).toHaveLength(2);
  for (const { version, accuracy, lineage } of family.variants) {
    expect(lineageOf(family, version)).toEqual(JSON.parse(JSON.stringify({ ...lineage, accuracy })));
    if (lineage.parent === undefined) continue;
    expect(bases.map(({ digest }) => digest)).toContain(lineage.parent);
    expect(lineage).toMatchObject({ seed: 1, dataset: 'stripes', epochs: 1, pruning: { ratio: 0.5 } });
    if (lineage.distillation !== undefined)
      expect(lineage.distillation).toEqual({ teacher: lineage.parent, temperature: 4, weight: 0.5 });
  }
  expect(family.variants.filter(({ lineage }) => lineage.distillation)).toHaveLength(4);
  // All differ: each branch was really made in its own way.
  expect(new Set(family.variants.map(({ digest }) => digest)).size).toBe(10);

  // By default those stay that are on a frontier, and the bases.
  const kept = await portFamily(
    [first, second],
    dataset,
    optionsWith({
      criteria: ['l2', 'fpgm'],
      distillation: { temperature: 4, weight: 0.5, alsoWithout: true },
      keep: 'frontier',
    }),
    steps,
  );
  const best = found.at(-1)!.filter(({ isOnFrontier, variant }) => isOnFrontier || !variant.lineage.parent);
  expect(kept.variants.map(({ digest }) => digest).sort()).toEqual(
    best.map(({ variant }) => variant.digest).sort(),
  );
  expect(kept.variants.length).toBeLessThan(10);
});

describe("a network of anybody's", () => {
  const foreign = (model: Model): Model => {
    const [input] = model.graph.inputs;
    const [output] = model.graph.outputs;
    const names = new Map([
      [input!.name, 'x'],
      [output!.name, 'scores'],
    ]);
    return { ...withGraph(model, renameValues(model.graph, names)), metadata: new Map() };
  };

  it('is fed with normalised pixels if it answers better so, and named as the first base', async () => {
    const notices: string[] = [];
    const seen: number[] = [];
    // What decides is what the step says; the network is random and knows nothing.
    const evaluate: PortSteps['evaluate'] = async (model, split) => {
      const isNormalized = [...model.graph.initializers.keys()].some((name) => name.startsWith('normalize/'));
      seen.push(split.count);
      return { accuracy: isNormalized ? 0.75 : 0.25, count: split.count };
    };
    const family = await portFamily(
      [first, foreign(second)],
      dataset,
      optionsWith({ ratios: [], onNotice: (message) => void notices.push(message) }),
      { ...steps, evaluate },
    );
    expect(notices).toEqual([
      'Pixels are normalised into base 2: 75.0 % of 20 examples right with normalisation, 25.0 % without.',
    ]);
    const [better, other] = [1, 2].map((version) => readModel(family.models.get(version)!).graph);
    expect(better!.inputs[0]!.name).toBe(other!.inputs[0]!.name);
    expect(better!.outputs[0]!.name).toBe(other!.outputs[0]!.name);
    const normalized = [better!, other!].filter(({ initializers }) => initializers.has('normalize/mean'));
    expect(normalized).toHaveLength(1);
  });

  it('makes room for the names of the other, and refuses what cannot answer alike', () => {
    const [input] = first.graph.inputs;
    const [output] = first.graph.outputs;
    const inner = second.graph.nodes[0]!.outputs[0]!;
    // The first's output has the name of a value inside the second.
    const called = (model: Model, from: string) =>
      withGraph(model, renameValues(model.graph, new Map([[from, 'hidden']])));
    const { graph } = withNamesOf(foreign(called(second, inner)), called(first, output!.name));
    expect([graph.inputs[0]!.name, graph.outputs[0]!.name]).toEqual([input!.name, 'hidden']);
    const two = { ...second.graph, outputs: [...second.graph.outputs, { name: inner }] };
    expect(() => withNamesOf(withGraph(second, two), first)).toThrow(
      /the first has 1 outputs, another has 2/,
    );
  });

  it('that joins a family takes its names', async () => {
    const family = await portFamily([second], dataset, optionsWith({ namesOf: foreign(first) }), steps);
    const wanted = foreign(first).graph;
    for (const { version } of family.variants) {
      const { inputs, outputs } = readModel(family.models.get(version)!).graph;
      expect(inputs.map(({ name }) => name)).toEqual(wanted.inputs.map(({ name }) => name));
      expect(outputs.map(({ name }) => name)).toEqual(wanted.outputs.map(({ name }) => name));
    }
  });

  it('is refused twice', async () => {
    await expect(portFamily([first, first], dataset, optionsWith(), steps)).rejects.toThrow(/same network/);
  });
});

describe('a budget', () => {
  /** Every training takes 10 s, everything else nothing. */
  const timed = () => {
    const clock = { now: 0, nowMs: () => clock.now, epochMs: () => 0 };
    const train: PortSteps['train'] = async (...args) => {
      clock.now += 10_000;
      return steps.train(...args);
    };
    return { clock, given: { ...steps, train } };
  };

  it('ends with what is done, the most useful first, and a second call goes on to the same family', async () => {
    const ratios = [0.25, 0.5, 0.75];
    const { clock, given } = timed();
    const written: Family[] = [];
    const write = async (family: Family) => void written.push(family);
    // 0.5 takes 10 s at half of the width; by that, 0.75 (of a quarter of the work) fits into 15 s, and 0.25 does not.
    const part = await portFamily(first, dataset, optionsWith({ ratios, clock, budgetMs: 15_000 }), {
      ...given,
      write,
    });
    const ratiosOf = ({ variants }: Family) =>
      variants.map(({ lineage }) => lineage.pruning?.ratio ?? 0).sort();
    expect(part.state).toBe('partial');
    expect(ratiosOf(part)).toEqual([0, 0.5, 0.75].slice(0, part.variants.length));
    expect(part.variants.length).toBeLessThan(4);
    expect(written.at(-1)).toBe(part);

    const rest = await portFamily(first, dataset, optionsWith({ ratios, clock, budgetMs: 1e9 }), given);
    expect(rest.state).toBe('complete');
    expect(ratiosOf(rest)).toEqual([0, 0.25, 0.5, 0.75]);
    const elsewhere = { ...optionsWith({ ratios }), workDirectory: join(folder, 'elsewhere') };
    const whole = await portFamily(first, dataset, elsewhere, steps);
    expect(whole.models).toEqual(rest.models);
  });

  it('stops a training that would end later, with a checkpoint from which the next call goes on', async () => {
    const clock = { now: 0, nowMs: () => clock.now, epochMs: () => 0 };
    const notices: string[] = [];
    const given: PortSteps = {
      ...steps,
      train: (model, data, recipe, options) =>
        steps.train(model, data, recipe, {
          ...options,
          onProgress: (detail) => {
            clock.now += 100;
            options.onProgress(detail);
          },
        }),
    };
    const recipe: PortOptions['recipe'] = () => ({ ...optionsWith().recipe(0.5), phases: [{ epochs: 20 }] });
    const options = optionsWith({ clock, recipe, onNotice: (message) => void notices.push(message) });
    const part = await portFamily(first, dataset, { ...options, budgetMs: 500 }, given);
    expect([part.state, part.variants.length]).toEqual(['partial', 1]);
    const rest = await portFamily(first, dataset, options, given);
    expect(notices).toEqual([
      'The budget leaves no room for "fine-tune" of ratio 0.5: that is where the same command goes on.',
      expect.stringMatching(/^Resumed after step \d+/),
    ]);
    const whole = await portFamily(
      first,
      dataset,
      { ...options, workDirectory: join(folder, 'elsewhere') },
      steps,
    );
    expect(rest.models).toEqual(whole.models);
  });
});

it('a training that diverges is tried again at lower rates, and a variant that cannot be trained is left out', async () => {
  const notices: string[] = [];
  const options = (learningRate: number) =>
    optionsWith({
      workDirectory: join(folder, String(learningRate)),
      recipe: () => ({ ...optionsWith().recipe(0.5), learningRate, phases: [{ epochs: 3 }] }),
      onNotice: (message) => void notices.push(message),
    });
  const wild = await portFamily(first, dataset, options(1e30), steps);
  expect(wild.variants).toHaveLength(1);
  expect(notices.filter((notice) => /diverged; once more/.test(notice))).toHaveLength(3);
  expect(notices.at(-1)).toMatch(/^Left out: .* Lower the learning rate/);
});

describe('goals', () => {
  it('make variants to measure: a share that is counted, and none where the server is fast enough already', async () => {
    const notices: string[] = [];
    const throughput: PortSteps['throughput'] = async () => ({
      throughputRps: constant(100),
      concurrency: 1,
    });
    const family = await portFamily(
      first,
      dataset,
      optionsWith({
        ratios: [],
        goals: [
          { kind: 'flops', share: 0.5 },
          { kind: 'throughput', perSecond: 90 },
        ],
        onNotice: (message) => void notices.push(message),
      }),
      { ...steps, throughput },
    );
    expect(family.variants).toHaveLength(2);
    const made = family.variants.find(({ lineage }) => lineage.pruning !== undefined)!;
    const before = family.variants.find(({ lineage }) => lineage.pruning === undefined)!;
    expect(made.lineage).toMatchObject({
      parent: before.digest,
      pruning: { scope: 'goal', goal: 'flops=0.5' },
    });
    expect(made.lineage.pruning!.ratio).toBeGreaterThan(0.1);
    expect(made.macs / before.macs).toBeGreaterThanOrEqual(0.5);
    expect(made.macs / before.macs).toBeLessThan(0.75);
    expect(notices).toEqual(['No variant for the goal throughput=90/s. It is met by base as it is.']);
  });

  it('of a job are met from a variant of the family, or it is said why not', async () => {
    const family = await portFamily(first, dataset, optionsWith(), steps);
    const parent = family.variants.find(({ lineage }) => lineage.pruning === undefined)!;
    const model = family.models.get(parent.version)!;
    const made = await portToGoal(
      { variant: parent, model },
      { kind: 'flops', share: 0.7 },
      dataset,
      optionsWith(),
      steps,
    );
    if (made.kind !== 'grown') throw new Error(made.kind);
    expect(made.variant).toMatchObject({
      lineage: { parent: parent.digest, pruning: { goal: 'flops=0.7' } },
    });
    // The goal of a job is a bound.
    expect(made.variant.macs / parent.macs).toBeLessThanOrEqual(0.7);
    expect(made.variant.macs / parent.macs).toBeGreaterThan(0.45);
    const merged = mergeVariants(family.variants, [made.variant], true);
    expect(merged.map(({ version }) => version)).toEqual([1, 2, 3]);
    expect(merged.map(({ accuracy }) => accuracy.test)).toEqual(
      merged.map(({ accuracy }) => accuracy.test).toSorted((a, b) => b - a),
    );
    const unmet = await portToGoal(
      { variant: parent, model },
      { kind: 'flops', share: 1e-4 },
      dataset,
      optionsWith(),
      steps,
    );
    expect(unmet).toMatchObject({ kind: 'unmet', reason: expect.stringMatching(/cannot be reached/) });
  });
});
