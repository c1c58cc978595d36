import { describe, expect, it } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import {
  elementCount,
  float32Tensor,
  floatsOf,
  int64Tensor,
  scalarTensor,
  type Tensor,
} from '../../base/tensor.ts';
import { probeBlockSize } from '../../engine/probe-block.ts';
import { Session } from '../../engine/session.ts';
import { checkModel } from '../../graph/check.ts';
import { type Model, withGraph } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { buildTrainingStep, readParameters } from '../../transform/autodiff/training-step.ts';
import { lowerTrainingStep } from '../../transform/lower/lower.ts';
import { prune } from '../../transform/prune/prune.ts';
import { builtFor } from './networks.fixture.ts';
import { BACKBONES, backbone, FAMILIES } from './registry.ts';

/** Every family, at widths that fill blocks of the engine's layout and at odd ones. */
const SPECS = [
  'resnet:widths=16-32,blocks=1-1',
  'resnet:widths=7-13,blocks=1-1',
  'densenet:growth=16,layers=2-2,multiple=16',
  'densenet:growth=11,layers=2-3',
  'densenet:growth=5,layers=2-1,bottleneck=4,compression=0.7',
  'mobilenet:width=0.25',
  'mobilenet:width=0.21,multiple=1',
  'mobilenet-v2:width=0.25',
  'mobilenet-v2:width=0.3,multiple=1,expansion=3',
];

describe('every family', () => {
  it('is among the specs that are tested here', () => {
    for (const { name } of FAMILIES)
      expect(SPECS.filter((spec) => spec.startsWith(`${name}:`))).not.toEqual([]);
  });

  describe.each(SPECS)('%s', (spec) => {
    it.each([
      [[1, 28, 28], 10],
      [[3, 33, 21], 7],
      [[3, 96, 80], 2],
    ] as const)('takes images of %j and scores %i classes, for any batch', async (inputShape, classes) => {
      const model = builtFor(spec, { inputShape, classes });
      checkModel(model);
      for (const batch of [1, 3]) {
        expect((await logitsOf(model, batch, inputShape)).shape).toEqual([batch, classes]);
      }
    });

    it('is a function of its seed', () => {
      const bytes = (seed: number) => Buffer.from(writeModel(builtFor(spec, { seed })));
      expect(bytes(1).equals(bytes(1))).toBe(true);
      expect(bytes(1).equals(bytes(2))).toBe(false);
    });

    it('is still a network with half of its channels pruned', async () => {
      const inputShape = [3, 32, 32] as const;
      const model = builtFor(spec, { inputShape });
      const pruned = prune(model, { ratio: 0.5, align: 1 });
      checkModel(pruned.model);
      expect(pruned.groups.length).toBeGreaterThan(0);
      for (const { channels, kept } of pruned.groups)
        expect(kept).toBe(Math.max(1, Math.floor(channels / 2)));
      expect(pruned.frozen.map(({ node }) => node)).toEqual(['head/gemm']);
      const logits = await logitsOf(pruned.model, 2, inputShape);
      expect(logits.shape).toEqual([2, 10]);
      expect(floatsOf(logits).every(Number.isFinite)).toBe(true);
    });

    it('learns in blocked layout what it learns in standard operators', async () => {
      const block = await probeBlockSize();
      const smooth = withoutKinks(builtFor(spec, { inputShape: [3, 16, 16] }));
      const standard = await stepResults(smooth, 1);
      const blocked = await stepResults(smooth, block);
      for (const [name, value] of Object.entries(standard)) {
        const least = name.startsWith('state_next/') ? STATISTICS_SCALE : 0;
        const difference = distance(floatsOf(blocked[name]!), floatsOf(value), least);
        expect(`${name} ${difference < TOLERANCE ? 'agrees' : difference}`).toBe(`${name} agrees`);
      }
      const learnt = distance(floatsOf(standard.parameters_next!), parametersOf(smooth));
      expect(learnt).toBeGreaterThan(10 * TOLERANCE);
    });
  });
});

describe('backbone', () => {
  it('knows every name, in the spelling of the literature too', () => {
    for (const name of Object.keys(BACKBONES)) expect(backbone(name).name).toBe(name);
    expect(backbone('resnet20').name).toBe('resnet-20');
    expect(backbone('ResNet-56').name).toBe('resnet-56');
    expect(backbone('densenet40').name).toBe('densenet-40');
    expect(backbone('mobilenet').name).toBe('mobilenet');
  });

  it('refuses what it does not know, and says what it does', () => {
    expect(() => backbone('vgg')).toThrow(/no backbone "vgg".*resnet-8.*densenet-small.*mobilenet:width/);
    expect(() => backbone('')).toThrow(/no backbone ""/);
    expect(() => backbone('toString')).toThrow(/no backbone "toString"/);
  });

  it('halves large images in the stem unless the spec says otherwise', () => {
    const stem = (spec: string, side: number) => {
      const made = builtFor(spec, { inputShape: [3, side, side] }).metadata.get('bonsai.backbone');
      const { stride, pool } = JSON.parse(made!) as { stride: number; pool: number };
      return [stride, pool];
    };
    expect([32, 64, 96, 224].map((side) => stem('resnet-8', side))).toEqual([
      [1, 1],
      [1, 1],
      [2, 1],
      [2, 2],
    ]);
    expect(stem('mobilenet-0.25', 224)).toEqual([2, 1]);
    expect(stem('resnet:widths=8,stride=1,pool=2', 96)).toEqual([1, 2]);
  });

  it('refuses images that are smaller than its strides', () => {
    const small = { inputShape: [3, 15, 40] } as const;
    expect(() => builtFor('mobilenet-0.25', small)).toThrow(/15×40 pixels are too small .* sides by 16/);
    expect(() => builtFor('densenet:growth=8,layers=1-1-1,stride=4', small)).toThrow(
      /too small .* sides by 16/,
    );
    expect(builtFor('mobilenet-0.25', { inputShape: [3, 16, 40] }).graph.nodes.length).toBeGreaterThan(0);
  });

  it('refuses a normalisation of other channels', () => {
    const normalization = { mean: [0.5], std: [0.5] };
    expect(() => builtFor('resnet-8', { normalization })).toThrow(/1 means .* 3 channels/);
  });
});

/** Relative L2 for float32 sums in another order, through some thirty layers. */
const TOLERANCE = 2e-4;
/** Of activations; the mean of values that were centred before is zero but for rounding, which no order repeats. */
const STATISTICS_SCALE = 0.1;

function image(batch: number, shape: readonly number[]): Tensor {
  const random = seededRandom(3);
  const pixels = Float32Array.from({ length: batch * elementCount(shape) }, () => random.uniform());
  return float32Tensor([batch, ...shape], pixels);
}

async function logitsOf(model: Model, batch: number, inputShape: readonly number[]): Promise<Tensor> {
  const session = await Session.create(writeModel(model));
  const { logits } = await session.run({ image: image(batch, inputShape) });
  await session.release();
  return logits!;
}

/** Tanh for Relu: a sign that flips by rounding would hide what else differs. */
function withoutKinks(model: Model): Model {
  const nodes = model.graph.nodes.map((node) =>
    node.opType === 'Relu' ? { ...node, opType: 'Tanh' } : node,
  );
  return withGraph(model, { ...model.graph, nodes });
}

const BATCH = 16;

function parametersOf(model: Model): Float32Array {
  return readParameters(model, buildTrainingStep(model, STEP)).parameters;
}

const STEP = {
  batch: BATCH,
  optimizer: { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 1e-3 },
} as const;

async function stepResults(model: Model, block: number): Promise<Record<string, Tensor>> {
  const step = buildTrainingStep(model, STEP);
  const { parameters, state } = readParameters(model, step);
  const feeds: Record<string, Tensor> = {
    image: image(BATCH, [3, 16, 16]),
    label: int64Tensor(Array.from({ length: BATCH }, (_, i) => i % 10)),
    learning_rate: scalarTensor(0.1),
    parameters: float32Tensor([step.parameterCount], parameters),
    velocity: float32Tensor([step.parameterCount], new Float32Array(step.parameterCount)),
  };
  for (const { name, shape } of step.state) feeds[`state/${name}`] = float32Tensor(shape, state[name]!);
  const session = await Session.create(writeModel(lowerTrainingStep(step.model, { block })));
  const results = await session.run(feeds);
  await session.release();
  return results;
}

/** Relative L2, but no smaller than if the values of `b` were all as large as `least`. */
function distance(a: Float32Array, b: Float32Array, least = 0): number {
  expect(a.length).toBe(b.length);
  let [difference, size] = [0, 1e-12 + b.length * least ** 2];
  for (const [i, value] of a.entries()) {
    difference += (value - b[i]!) ** 2;
    size += value ** 2;
  }
  return Math.sqrt(difference / size);
}
