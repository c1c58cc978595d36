import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf, tensorOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { halfPrecision } from '../../transform/passes/half-precision.fixture.ts';
import { dependencyGroups } from '../../transform/prune/groups.ts';
import { batchOf } from '../data/batch.ts';
import type { Split } from '../data/data-module.ts';
import { drawExamples } from '../data/split.ts';
import { gatherCriterion } from './gather.ts';

const [CHANNELS, HIDDEN, CLASSES] = [3, 5, 4];
const RAW = { normalise: 'none', members: 'out', seed: 1 } as const;

/** Conv 1×1 → (BatchNormalization) → activation → global pooling → Gemm, on images of 3 × 2 × 2. */
function network(
  options: { norm?: boolean; activation?: string; batch?: number; softmax?: boolean } = {},
): Model {
  const random = seededRandom(4);
  const build = new GraphBuilder('net');
  const normal = (name: string, shape: readonly number[], centre = 0) =>
    build.initializer(
      name,
      float32Tensor(
        shape,
        Float32Array.from({ length: elementCount(shape) }, () => centre + random.normal()),
      ),
    );
  const batch = options.batch ?? 'N';
  const image = build.input('image', 'float32', [batch, CHANNELS, 2, 2]);
  let x = build.op('Conv', [image, normal('w', [HIDDEN, CHANNELS, 1, 1])], {}, { outputs: ['conv'] });
  if (options.norm) {
    const still = [build.floats(new Array(HIDDEN).fill(0)), build.floats(new Array(HIDDEN).fill(1))];
    x = build.op('BatchNormalization', [x, normal('gamma', [HIDDEN]), normal('beta', [HIDDEN]), ...still]);
  }
  x = build.op(options.activation ?? 'Relu', [x], {}, { outputs: ['active'] });
  const pooled = build.op('GlobalAveragePool', [x]);
  const flat =
    options.batch === undefined
      ? build.op('Flatten', [pooled])
      : build.op('Reshape', [pooled, build.ints([options.batch, -1])]);
  x = build.op('Gemm', [flat, normal('dense', [HIDDEN, CLASSES])], {}, { outputs: ['logits'] });
  if (options.softmax) x = build.op('Softmax', [x], { axis: 1 }, { outputs: ['probabilities'] });
  build.output(x, 'float32', [batch, CLASSES]);
  return modelOf(build.finish());
}

const split = noise(12);
const groupOf = (model: Model) => dependencyGroups(model).groups[0]!;

describe('Taylor scores', () => {
  test('are the squares of gradient times weight, by finite differences of each mini-batch', async () => {
    const model = network();
    const criterion = await gatherCriterion('taylor', model, split, { ...RAW, batch: 4 });
    const expected = new Float64Array(HIDDEN);
    const weights = Float64Array.from(floatsOf(model.graph.initializers.get('w')!));
    for (const images of batchesOf(criterionOrder(12), 4)) {
      for (let i = 0; i < weights.length; i++) {
        const lossAt = (value: number) => lossOf(model, images, { w: weights.with(i, value) });
        const gradient = slope(lossAt, weights[i]!);
        expected[Math.floor(i / CHANNELS)]! += (gradient * weights[i]!) ** 2;
      }
    }
    expectClose(criterion.scores(groupOf(model)), expected);
  });

  test('of gates are the squared gradient of a factor behind BatchNormalization', async () => {
    const model = network({ norm: true });
    const criterion = await gatherCriterion('taylor-gate', model, split, { ...RAW, batch: 4 });
    const expected = new Float64Array(HIDDEN);
    for (const images of batchesOf(criterionOrder(12), 4)) {
      for (let c = 0; c < HIDDEN; c++) {
        const open = new Float64Array(HIDDEN).fill(1);
        expected[c]! += slope((z) => lossOf(model, images, { gates: open.with(c, z) }), 1) ** 2;
      }
    }
    expectClose(criterion.scores(groupOf(model)), expected);
  });

  test('do not change with a closing Softmax or a batch that the exporter wrote into the file', async () => {
    const [plain, other] = [network(), network({ batch: 1, softmax: true })];
    const scores = async (model: Model) =>
      (await gatherCriterion('taylor', model, split, { ...RAW, batch: 4 })).scores(groupOf(model));
    expectClose(await scores(other), await scores(plain));
  });

  test('are the same for a seed', async () => {
    const model = network({ norm: true });
    const scores = async (seed: number) =>
      (await gatherCriterion('taylor-gate', model, split, { seed, batch: 5, batches: 1 })).scores(
        groupOf(model),
      );
    expect(await scores(1)).toEqual(await scores(1));
    expect(await scores(1)).not.toEqual(await scores(2));
  });
});

describe('activations', () => {
  test.each([true, false])(
    'are measured behind the activation function (BatchNormalization: %s)',
    async (norm) => {
      const model = network({ norm });
      const values = await activations(model, split);
      const scores = async (name: 'apoz' | 'mean-activation') =>
        (await gatherCriterion(name, model, split, { ...RAW, batch: 4 })).scores(groupOf(model));
      const share = (count: (value: number) => number) =>
        Float64Array.from({ length: HIDDEN }, (_, c) => {
          const own = values.filter((_value, at) => Math.floor(at / 4) % HIDDEN === c);
          return own.reduce((sum, value) => sum + count(value), 0) / own.length;
        });
      expectClose(
        await scores('apoz'),
        share((value) => (value === 0 ? 0 : 1)),
      );
      expectClose(await scores('mean-activation'), share(Math.abs));
    },
  );

  test('without exact zeros refuse APoZ and name what to use', async () => {
    const model = network({ activation: 'Sigmoid' });
    const criterion = await gatherCriterion('apoz', model, split, RAW);
    expect(() => criterion.scores(groupOf(model))).toThrow(
      expect.objectContaining({ code: 'unsupported', message: expect.stringMatching(/mean-activation/) }),
    );
    const mean = await gatherCriterion('mean-activation', model, split, RAW);
    expect(Math.min(...mean.scores(groupOf(model)))).toBeGreaterThan(0);
  });
});

test.each(['taylor', 'taylor-gate', 'apoz', 'mean-activation'] as const)(
  '%s of a network in 16-bit floats is that of the same network in float32',
  async (name) => {
    const model = network({ norm: name === 'taylor-gate' });
    const scores = async (of: Model) =>
      (await gatherCriterion(name, of, split, { ...RAW, batch: 4 })).scores(groupOf(of));
    const [actual, expected] = [await scores(halfPrecision(model)), await scores(model)];
    const largest = Math.max(...expected);
    expect(largest).toBeGreaterThan(0);
    for (const [i, score] of expected.entries())
      expect(Math.abs(actual[i]! - score) / largest).toBeLessThan(0.02);
  },
);

test('what cannot be gathered is a typed error; an abort stops it', async () => {
  const gather = (name: 'taylor' | 'taylor-gate', given: Split, more = {}) =>
    gatherCriterion(name, network(), given, { ...RAW, ...more });
  await expect(gather('taylor-gate', split)).rejects.toMatchObject({ code: 'unsupported' });
  await expect(gather('taylor', { ...split, count: 0 })).rejects.toMatchObject({ code: 'invalid_argument' });
  await expect(gather('taylor', split, { batch: 0 })).rejects.toMatchObject({ code: 'invalid_argument' });
  const labels = split.labels.map(() => CLASSES);
  await expect(gather('taylor', { ...split, labels })).rejects.toMatchObject({ code: 'shape_mismatch' });
  const small = { ...split, images: split.images.subarray(0, 12 * 6) };
  await expect(gather('taylor', small)).rejects.toMatchObject({ code: 'shape_mismatch' });
  await expect(gather('taylor', split, { signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'aborted',
  });
});

test('of weights in integers it says that the float network is to be scored', async () => {
  const build = new GraphBuilder('int8');
  const weight = (shape: readonly number[]) => {
    const stored = Int8Array.from({ length: elementCount(shape) }, (_, i) => (i % 7) - 3);
    return build.op('DequantizeLinear', [build.constant(tensorOf('int8', shape, stored)), build.scalar(0.1)]);
  };
  const image = build.input('image', 'float32', ['N', CHANNELS, 2, 2]);
  const hidden = build.op('Conv', [image, weight([HIDDEN, CHANNELS, 1, 1])], {}, { name: 'conv' });
  const flat = build.op('Flatten', [build.op('GlobalAveragePool', [hidden])]);
  const bias = build.initializer('bias', float32Tensor([CLASSES], new Float32Array(CLASSES)));
  build.output(build.op('Gemm', [flat, weight([HIDDEN, CLASSES]), bias]), 'float32', ['N', CLASSES]);
  const model = modelOf(build.finish());
  const criterion = await gatherCriterion('taylor', model, split, { ...RAW, batch: 4 });
  expect(() => criterion.scores(groupOf(model))).toThrow(
    /weight of conv: they are integers behind DequantizeLinear.*the float network, and quantise after/,
  );
});

function noise(count: number): Split {
  const random = seededRandom(8);
  return {
    count,
    images: Uint8Array.from({ length: count * CHANNELS * 4 }, () => random.integer(256)),
    labels: Uint8Array.from({ length: count }, () => random.integer(CLASSES)),
  };
}

/** The examples in the order in which seed 1 draws them: mini-batches are cut from it. */
function criterionOrder(count: number): Split {
  return drawExamples(split, count, seededRandom(RAW.seed).fork('importance'));
}

function* batchesOf(drawn: Split, size: number) {
  for (let from = 0; from < drawn.count; from += size) {
    yield batchOf(
      { shape: [CHANNELS, 2, 2] },
      drawn,
      Array.from({ length: size }, (_, i) => from + i),
    );
  }
}

/** The network of `network()` in float64: mean cross-entropy of a mini-batch, BatchNormalization by its statistics. */
function lossOf(
  model: Model,
  { images, labels }: { images: Float32Array; labels: Uint8Array },
  changed: { w?: Float64Array; gates?: Float64Array },
): number {
  const read = (name: string) => Float64Array.from(floatsOf(model.graph.initializers.get(name)!));
  const [w, dense] = [changed.w ?? read('w'), read('dense')];
  const hidden = Array.from({ length: HIDDEN }, (_, c) =>
    Float64Array.from({ length: labels.length * 4 }, (_value, at) => {
      const [n, pixel] = [Math.floor(at / 4), at % 4];
      let sum = 0;
      for (let k = 0; k < CHANNELS; k++)
        sum += w[c * CHANNELS + k]! * images[(n * CHANNELS + k) * 4 + pixel]!;
      return sum;
    }),
  );
  if (model.graph.initializers.has('gamma')) {
    const [gamma, beta] = [read('gamma'), read('beta')];
    for (const [c, values] of hidden.entries()) {
      const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
      const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
      const gate = changed.gates?.[c] ?? 1;
      for (const [i, v] of values.entries()) {
        values[i] = gate * ((gamma[c]! * (v - mean)) / Math.sqrt(variance + 1e-5) + beta[c]!);
      }
    }
  }
  let loss = 0;
  for (const [n, label] of labels.entries()) {
    const features = hidden.map((values) => {
      let sum = 0;
      for (let pixel = 0; pixel < 4; pixel++) sum += Math.max(0, values[n * 4 + pixel]!) / 4;
      return sum;
    });
    const logits = Array.from({ length: CLASSES }, (_, k) =>
      features.reduce((sum, feature, c) => sum + feature * dense[c * CLASSES + k]!, 0),
    );
    loss += Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0)) - logits[label]!;
  }
  return loss / labels.length;
}

/** A central difference; float64 leaves ten digits at this step. */
function slope(f: (x: number) => number, x: number): number {
  const step = 1e-5;
  return (f(x + step) - f(x - step)) / (2 * step);
}

async function activations(model: Model, given: Split): Promise<Float32Array> {
  const outputs = [{ name: 'active', type: { dtype: 'float32' as const, shape: ['N', HIDDEN, 2, 2] } }];
  const session = await Session.create(writeModel({ ...model, graph: { ...model.graph, outputs } }));
  try {
    const { images, shape } = batchOf({ shape: [CHANNELS, 2, 2] }, given, [...Array(given.count).keys()]);
    return floatsOf((await session.run({ image: float32Tensor(shape, images) })).active!);
  } finally {
    await session.release();
  }
}

function expectClose(actual: Float64Array, expected: Float64Array): void {
  const scale = Math.max(...expected);
  expect(scale).toBeGreaterThan(0);
  expect(actual.length).toBe(expected.length);
  for (const [i, value] of expected.entries())
    expect(Math.abs(actual[i]! - value)).toBeLessThan(1e-3 * scale);
}
