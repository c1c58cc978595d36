import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Random, seededRandom } from '../../base/random.ts';
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
import { float } from '../../graph/attributes.ts';
import { type AttributeValues, GraphBuilder, modelOf } from '../../graph/build.ts';
import { checkModel } from '../../graph/check.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { buildTrainingStep, readParameters } from '../autodiff/training-step.ts';
import { lowerTrainingStep } from './lower.ts';

/** Layers of a network under test, on a growing graph; each returns the value that it made. */
interface Layers {
  readonly build: GraphBuilder;
  conv(x: string, from: number, to: number, attributes?: AttributeValues, bias?: 'bias'): string;
  norm(x: string, channels: number): string;
  op(opType: string, ...inputs: string[]): string;
}

interface Case {
  readonly name: string;
  readonly size?: readonly [height: number, width: number];
  readonly batch?: number;
  /** Returns the last image and its channels; pooling and a Gemm follow. */
  readonly body: (layers: Layers, image: string, width: (n: number) => number) => [string, number];
}

const THREE = { kernel_shape: [3, 3], pads: [1, 1, 1, 1] };
const HALVING = { ...THREE, strides: [2, 2] };
const ONE = { kernel_shape: [1, 1] };

const CASES: readonly Case[] = [
  {
    name: 'a residual network that halves even and odd images',
    size: [14, 10],
    body: ({ conv, norm, op }, image, w) => {
      const x = op('Tanh', norm(conv(image, 3, w(1), THREE), w(1)));
      const a = op('Tanh', norm(conv(x, w(1), w(1), THREE), w(1)));
      const b = op('Tanh', op('Add', norm(conv(a, w(1), w(1), THREE), w(1)), x));
      const c = op('Tanh', norm(conv(b, w(1), w(2), HALVING), w(2)));
      const d = norm(conv(c, w(2), w(2), THREE), w(2));
      const e = op('Tanh', op('Add', d, norm(conv(b, w(1), w(2), { ...ONE, strides: [2, 2] }), w(2))));
      return [op('Tanh', norm(conv(e, w(2), w(1), HALVING), w(1))), w(1)];
    },
  },
  {
    name: 'branches that are joined, normalised together and cut apart',
    body: ({ conv, norm, op }, image, w) => {
      const x = conv(image, 3, w(1), THREE);
      const a = conv(op('Tanh', norm(x, w(1))), w(1), w(1), THREE);
      const both = op('Concat', x, a);
      const b = conv(op('Tanh', norm(both, 2 * w(1))), 2 * w(1), w(2), THREE);
      const all = op('Concat', both, b);
      const c = conv(op('Tanh', norm(all, 2 * w(1) + w(2))), 2 * w(1) + w(2), w(1), ONE);
      return [op('Tanh', norm(c, w(1))), w(1)];
    },
  },
  {
    name: 'depthwise and pointwise convolutions',
    body: ({ conv, norm, op }, image, w) => {
      const x = op('Tanh', norm(conv(image, 3, w(1), THREE), w(1)));
      const a = op('Tanh', norm(conv(x, w(1), w(1), { ...THREE, group: w(1) }), w(1)));
      const b = op('Tanh', norm(conv(a, w(1), w(2), ONE), w(2)));
      const c = op('Tanh', norm(conv(b, w(2), w(2), { ...HALVING, group: w(2) }), w(2)));
      return [op('Tanh', norm(conv(c, w(2), w(2), ONE), w(2))), w(2)];
    },
  },
  {
    name: 'folded normalisations: convolutions with biases',
    body: ({ conv, op }, image, w) => {
      const x = op('Tanh', conv(image, 3, w(1), THREE, 'bias'));
      const a = op('Tanh', conv(x, w(1), w(1), THREE, 'bias'));
      const b = op('Tanh', op('Add', conv(a, w(1), w(1), THREE, 'bias'), x));
      return [op('Tanh', conv(b, w(1), w(2), HALVING, 'bias')), w(2)];
    },
  },
  {
    name: 'unusual windows, groups and a batch that is no multiple of the block',
    batch: 5,
    size: [11, 9],
    body: ({ conv, norm, op }, image, w) => {
      const x = op('Tanh', norm(conv(image, 3, w(1), { kernel_shape: [5, 3], pads: [2, 0, 1, 1] }), w(1)));
      const a = op('Tanh', conv(x, w(1), w(2), { ...THREE, pads: [2, 2, 2, 2], dilations: [2, 2] }));
      const b = op('Tanh', norm(conv(a, w(2), w(2), { ...THREE, strides: [3, 2] }), w(2)));
      const c = op('Tanh', conv(b, w(2), w(2), { kernel_shape: [2, 2], pads: [0, 1, 1, 0] }));
      return [op('HardSwish', norm(conv(c, w(2), w(2), { ...THREE, group: w(2) / 2 }), w(2))), w(2)];
    },
  },
  {
    name: 'windows that are dilated, not square, or hang over the edge',
    size: [11, 9],
    body: ({ conv, norm, op }, image, w) => {
      const x = op('Tanh', norm(conv(image, 3, w(1), { kernel_shape: [5, 3], pads: [2, 0, 1, 1] }), w(1)));
      const a = op('Tanh', conv(x, w(1), w(2), { ...THREE, pads: [2, 1, 2, 1], dilations: [2, 1] }));
      const b = op('Tanh', norm(conv(a, w(2), w(2), { ...THREE, strides: [3, 2] }), w(2)));
      const c = op('Tanh', conv(b, w(2), w(1), { kernel_shape: [2, 2], pads: [0, 1, 1, 0] }));
      const d = op('Tanh', conv(c, w(1), w(1), { ...ONE, pads: [1, 0, 0, 1] }));
      return [op('Tanh', conv(d, w(1), w(2), { ...THREE, pads: [1, 2, 1, 2], dilations: [1, 2] })), w(2)];
    },
  },
  {
    name: 'pooling and functions that do not keep zero',
    body: ({ conv, norm, op, build }, image, w) => {
      const x = op('Sigmoid', norm(conv(image, 3, w(1), THREE), w(1)));
      const a = build.op('AveragePool', [x], { kernel_shape: [2, 2], strides: [2, 2] });
      const b = op('Mul', conv(a, w(1), w(1), THREE), a);
      return [op('Sub', op('Tanh', conv(b, w(1), w(1), THREE)), build.scalar(0.1)), w(1)];
    },
  },
  {
    name: 'images that are shrunk and grown again',
    body: ({ conv, norm, op, build }, image, w) => {
      const random = seededRandom(9);
      const kernel = (shape: readonly number[]) => build.constant(normalTensor(shape, 0.2, random), 'w');
      const x = op('Tanh', norm(conv(image, 3, w(1), THREE), w(1)));
      const a = op('Tanh', conv(x, w(1), w(2), HALVING, 'bias'));
      const grown = build.op('ConvTranspose', [a, kernel([w(2), w(1), 2, 2]), kernel([w(1)])], {
        kernel_shape: [2, 2],
        strides: [2, 2],
      });
      const larger = build.op('Resize', [a, undefined, build.floats([1, 1, 2, 2])], { mode: 'linear' });
      const both = op('Concat', grown, larger, x);
      const b = conv(both, 2 * w(1) + w(2), 4 * w(1), { ...HALVING });
      const c = build.op('DepthToSpace', [b], { blocksize: 2 });
      return [op('Tanh', op('InstanceNormalization', c, kernel([w(1)]), kernel([w(1)]))), w(1)];
    },
  },
];

let block = 1;
beforeAll(async () => {
  block = await probeBlockSize();
});

describe('a step in blocked layout gives what standard operators give', () => {
  for (const item of CASES) {
    for (const [kind, width] of [
      ['whole blocks', (n: number) => n * block],
      ['padded blocks', (n: number) => 2 * (n * 5 - 1)],
    ] as const) {
      it(`${item.name}, ${kind}`, async () => {
        const model = networkOf(item, width);
        const [standard, blocked] = await resultsOf(model, item, [1, block]);
        for (const [name, value] of Object.entries(standard!)) {
          const difference = distance(floatsOf(blocked![name]!), floatsOf(value));
          expect(`${name} ${difference < TOLERANCE ? 'agrees' : difference}`).toBe(`${name} agrees`);
        }
      });
    }
  }
});

/** Relative L2 for float32 sums in another order. */
const TOLERANCE = 2e-5;

describe('with kinks', () => {
  it('the first loss is the same and the gradient close', async () => {
    const item: Case = {
      name: 'rectified',
      body: ({ conv, norm, op, build }, image, w) => {
        const x = op('Relu', norm(conv(image, 3, w(1), THREE), w(1)));
        const a = op('Relu', norm(conv(x, w(1), w(1), THREE), w(1)));
        const b = op('Relu', op('Add', norm(conv(a, w(1), w(1), THREE), w(1)), x));
        const c = build.op('MaxPool', [b], { kernel_shape: [2, 2], strides: [2, 2] });
        return [op('Relu', norm(conv(c, w(1), w(2), HALVING), w(2))), w(2)];
      },
    };
    const [standard, blocked] = await resultsOf(
      networkOf(item, (n) => n * block),
      item,
      [1, block],
    );
    expect(floatsOf(blocked!.loss!)[0]).toBeCloseTo(floatsOf(standard!.loss!)[0]!, 5);
    expect(distance(floatsOf(blocked!.velocity_next!), floatsOf(standard!.velocity_next!))).toBeLessThan(
      0.02,
    );
  });
});

describe('the lowered graph', () => {
  it('keeps the layout between convolutions: no reorders but at the ends and for weight gradients', () => {
    const item = CASES[0]!;
    const step = buildTrainingStep(
      networkOf(item, (n) => 16 * n),
      { batch: 16, ...PLAIN },
    );
    const lowered = lowerTrainingStep(step.model, { block: 16 });
    checkModel(lowered);
    const count = (opType: string) => lowered.graph.nodes.filter((node) => node.opType === opType).length;
    const loss = lowered.graph.nodes.findIndex((node) => node.outputs.includes('loss'));
    const forward = lowered.graph.nodes.slice(0, loss).map((node) => node.opType);
    // Seven kernels, of which five are square in blocks (not the first, of three channels, nor the 1×1), and the pooled
    // features on their way to the Gemm.
    expect(forward.filter((opType) => opType === 'ReorderInput')).toHaveLength(7);
    expect(forward.filter((opType) => opType === 'ReorderOutput')).toHaveLength(5 + 1);
    // Each of six input gradients puts its kernel in order with two reorders. Each of seven weight gradients turns dY
    // into a kernel, X into an image and the result back; two put the blocks of an X of two blocks side by side. And
    // there is the gradient that the pooling spreads out.
    expect(count('ReorderInput')).toBe(7 + 6 + 7 + 1);
    expect(count('ReorderOutput')).toBe(6 + 6 + 7 + 7 + 2);
    expect(count('BatchNormalization')).toBe(0);
  });

  it('has only standard operators where the engine has no blocked layout', () => {
    const step = buildTrainingStep(
      networkOf(CASES[2]!, (n) => 8 * n),
      { batch: 8, ...PLAIN },
    );
    const lowered = lowerTrainingStep(step.model, { block: 1 });
    checkModel(lowered);
    expect(lowered.opsets.map(({ domain }) => domain)).toEqual(['', 'com.microsoft']);
  });
});

const PLAIN = {
  optimizer: { name: 'sgd', momentum: 0.9, nesterov: true, weightDecay: 1e-3 },
} as const;
const CLASSES = 4;
const sessions: Session[] = [];
afterAll(async () => {
  for (const session of sessions) await session.release();
});

async function resultsOf(model: Model, item: Case, blocks: readonly number[]) {
  const batch = item.batch ?? block;
  const step = buildTrainingStep(model, { batch, labelSmoothing: 0.1, ...PLAIN });
  const { parameters, state } = readParameters(model, step);
  const random = seededRandom(5);
  const feeds: Record<string, Tensor> = {
    image: normalTensor([batch, 3, ...(item.size ?? [8, 8])], 1, random),
    label: int64Tensor(Array.from({ length: batch }, () => random.integer(CLASSES))),
    learning_rate: scalarTensor(0.1),
    parameters: float32Tensor([step.parameterCount], parameters),
    velocity: normalTensor([step.parameterCount], 0.01, random),
  };
  for (const { name, shape } of step.state) feeds[`state/${name}`] = float32Tensor(shape, state[name]!);
  const results: Record<string, Tensor>[] = [];
  for (const size of blocks) {
    const session = await Session.create(writeModel(lowerTrainingStep(step.model, { block: size })));
    sessions.push(session);
    results.push(await session.run(feeds));
  }
  return results;
}

function networkOf(item: Case, width: (n: number) => number): Model {
  const random = seededRandom(1);
  const build = new GraphBuilder('net');
  build.input('image', 'float32', ['N', 3, ...(item.size ?? [8, 8])]);
  const conv: Layers['conv'] = (x, from, to, attributes = {}, bias) => {
    const kernel = (attributes.kernel_shape ?? [1, 1]) as number[];
    const group = (attributes.group as number | undefined) ?? 1;
    const shape = [to, from / group, ...kernel];
    const w = build.constant(normalTensor(shape, Math.sqrt(1 / elementCount(shape.slice(1))), random), 'w');
    const b = bias === 'bias' ? build.constant(normalTensor([to], 0.1, random), 'b') : undefined;
    return build.op('Conv', [x, w, b], attributes);
  };
  const norm: Layers['norm'] = (x, channels) => {
    const parameters = [
      normalTensor([channels], 0.2, random, 1),
      normalTensor([channels], 0.2, random),
      normalTensor([channels], 0, random),
      normalTensor([channels], 0, random, 1),
    ].map((tensor, i) => build.constant(tensor, ['scale', 'shift', 'mean', 'var'][i]));
    return build.op('BatchNormalization', [x, ...parameters], { momentum: float(0.9) });
  };
  const op: Layers['op'] = (opType, ...inputs) =>
    build.op(opType, inputs, opType === 'Concat' ? { axis: 1 } : {});
  const [last, channels] = item.body({ build, conv, norm, op }, 'image', width);
  const pooled = build.op('Flatten', [build.op('GlobalAveragePool', [last])]);
  const head = build.constant(normalTensor([CLASSES, channels], 0.5, random), 'head');
  const bias = build.constant(normalTensor([CLASSES], 0.1, random), 'head_bias');
  build.op('Gemm', [pooled, head, bias], { transB: 1 }, { outputs: ['logits'] });
  build.output('logits', 'float32', ['N', CLASSES]);
  return modelOf(build.finish());
}

function normalTensor(shape: readonly number[], deviation: number, random: Random, mean = 0): Tensor {
  return float32Tensor(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => mean + deviation * random.normal()),
  );
}

function distance(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  let [difference, size] = [0, 1e-12];
  for (const [i, value] of a.entries()) {
    difference += (value - b[i]!) ** 2;
    size += value ** 2;
  }
  return Math.sqrt(difference / size);
}
