import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { foldConstants } from '../../transform/passes/fold-constants.ts';
import { halfPrecision } from '../../transform/passes/half-precision.fixture.ts';
import { randomNetwork } from '../../transform/prune/networks.fixture.ts';
import { batchOf } from '../data/batch.ts';
import type { Dataset, Split } from '../data/data-module.ts';
import { evaluate } from '../evaluate/evaluate.ts';
import { withImageInput } from '../image-input.ts';
import { CALIBRATION_METHODS, calibrate } from './calibrate.ts';
import { QUANTIZATION_KEY, quantizationOf, quantizeNetwork } from './quantize-network.ts';

const shape = [2, 8, 8] as const;
const model = randomNetwork(['bn-relu', 'residual', 'pool'], 'gap', 5);
const dataset = noise(shape, 30);

describe('calibrate', () => {
  test('min-max finds what the network computes on those examples', async () => {
    const ranges = await calibrate(model, dataset, dataset.train, { samples: 30 });
    const indices = Array.from({ length: 30 }, (_, i) => i);
    const { images } = batchOf(dataset, dataset.train, indices);
    expect(ranges.get('image')).toEqual({
      min: images.reduce((a, b) => Math.min(a, b)),
      max: images.reduce((a, b) => Math.max(a, b)),
    });
    // The value that pooling reads is also in the network as it was given.
    const [name] = [...ranges.keys()].filter((value) =>
      model.graph.nodes.some((node) => node.opType === 'MaxPool' && node.inputs[0] === value),
    );
    const outputs = [{ name: name!, type: { dtype: 'float32' as const } }];
    const session = await Session.create(writeModel({ ...model, graph: { ...model.graph, outputs } }));
    const results = await session.run({ image: float32Tensor([30, ...shape], images) });
    const values = floatsOf(results[name!]!);
    await session.release();
    expect(ranges.get(name!)!.min).toBeCloseTo(Math.min(...values), 4);
    expect(ranges.get(name!)!.max).toBeCloseTo(Math.max(...values), 4);
  });

  test.each(CALIBRATION_METHODS)(
    '%s is deterministic, within what was seen, and reports its work',
    async (method) => {
      const seen: [number, number][] = [];
      const options = { samples: 20, seed: 4 };
      const onProgress = (done: number, total: number) => void seen.push([done, total]);
      const ranges = await calibrate(model, dataset, dataset.train, { ...options, method, onProgress });
      expect(await calibrate(model, dataset, dataset.train, { ...options, method })).toEqual(ranges);
      const whole = await calibrate(model, dataset, dataset.train, options);
      expect([...ranges.keys()]).toEqual([...whole.keys()]);
      let isNarrower = false;
      for (const [name, { min, max }] of ranges) {
        expect(min).toBeLessThanOrEqual(max);
        expect(min).toBeGreaterThanOrEqual(whole.get(name)!.min);
        expect(max).toBeLessThanOrEqual(whole.get(name)!.max);
        isNarrower ||= max < whole.get(name)!.max;
      }
      expect(isNarrower).toBe(method !== 'min-max');
      const total = method === 'min-max' ? 20 : 40;
      expect(seen.at(-1)).toEqual([total, total]);
    },
  );

  test('nothing to calibrate on, wrong images, values without a range and an abort are typed errors', async () => {
    const given = (options: Parameters<typeof calibrate>[3], split: Split = dataset.train) =>
      calibrate(model, dataset, split, options);
    await expect(given({ samples: 0 })).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(given({ percentile: 40 })).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(given({ exclude: ['nobody'] })).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(given({}, { ...dataset.train, count: 0 })).rejects.toMatchObject({
      code: 'invalid_argument',
    });
    await expect(given({ signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'aborted' });
    const other = noise([3, 8, 8], 4);
    await expect(calibrate(model, other, other.train)).rejects.toMatchObject({ code: 'shape_mismatch' });
    const b = new GraphBuilder('infinite');
    const x = b.op('Log', [b.op('Sub', [b.input('x', 'float32', ['N', 2, 8, 8]), b.scalar(2)])]);
    b.output(b.op('Conv', [x, b.constant(float32Tensor([1, 2, 1, 1], [1, 1]))]), 'float32');
    await expect(calibrate(modelOf(b.finish()), dataset, dataset.train)).rejects.toThrow(/not finite/);
  });
});

test('a value that an idle Pad before a pooling reads can be observed', async () => {
  const b = new GraphBuilder('padded');
  const weight = b.constant(float32Tensor([2, 2, 1, 1], [1, 2, 3, 4]));
  const y = b.op('Relu', [b.op('Conv', [b.input('x', 'float32', ['N', 2, 8, 8]), weight])]);
  const padded = b.op('Pad', [y, b.ints([0, 0, 0, 0, 0, 0, 0, 0])]);
  const pads = [0, 0, 0, 0];
  b.output(b.op('AveragePool', [padded], { kernel_shape: [8, 8], pads }), 'float32');
  const ranges = await calibrate(modelOf(b.finish()), dataset, dataset.train);
  expect(ranges.get(y)!.max).toBeGreaterThan(1);
});

test('a network in 16-bit floats is quantised like the same in float32, and keeps the types of its inputs and outputs', async () => {
  const { model: actual } = await quantizeNetwork(halfPrecision(foldConstants(model)), dataset, {});
  const { model: expected } = await quantizeNetwork(model, dataset, {});
  expect(actual.graph.inputs[0]!.type?.dtype).toBe('float16');
  expect(actual.graph.outputs[0]!.type?.dtype).toBe('float16');
  const integers = ({ graph }: Model) =>
    [...graph.initializers.values()].filter(({ dtype }) => dtype === 'int8').map(({ shape }) => shape.join());
  expect(integers(actual)).toEqual(integers(expected));
  const count = (await evaluate(withImageInput(actual, dataset), dataset.train)).confusion.flat();
  expect(count.reduce((sum, n) => sum + n, 0)).toBe(30);
  const answered = (await evaluate(expected, dataset.train)).confusion.flat();
  const moved = count.reduce((sum, n, i) => sum + Math.abs(n - answered[i]!), 0) / 2;
  expect(moved).toBeLessThan(4);
});

test('a quantised network tells how it was made', async () => {
  const { model: quantized, record } = await quantizeNetwork(model, dataset, {
    method: 'percentile',
    samples: 100,
    reduceRange: true,
    parent: 'abc',
  });
  expect(record).toEqual({
    method: 'percentile',
    percentile: 99.99,
    samples: 30,
    seed: 1,
    reduceRange: true,
    parent: 'abc',
  });
  expect(JSON.parse(quantized.metadata.get(QUANTIZATION_KEY)!)).toEqual(record);
  expect(quantizationOf(readModel(writeModel(quantized)))).toEqual({ method: 'percentile', samples: 30 });
  expect(quantizationOf(model)).toBeUndefined();
});

/** Networks of other people's exporters, with the size of their images; most take one image at a time. */
const SHARED = [
  ['mnist-8-cntk', [1, 28, 28]],
  ['resnet20-cifar10-torch2', [3, 32, 32]],
  ['squeezenet-cifar10-tf2onnx', [3, 32, 32]],
  ['vit-pgd-2-3-16-cifar10', [3, 32, 32]],
  ['ultraface-rfb-320', [3, 240, 320]],
] as const;

describe.each(SHARED)('%s', (name, size) => {
  const file = join(process.env.BONSAI_SHARED ?? '../shared', 'models', `${name}.onnx`);
  test.skipIf(!existsSync(file))('answers in integers nearly as in floating point', async () => {
    const float = readModel(readFileSync(file));
    const data = noise(size, 4);
    const { model: integer } = await quantizeNetwork(float, data, {});
    const [before, after] = [await answers(float, data), await answers(integer, data)];
    const energy = before.reduce((sum, value) => sum + value ** 2, 0);
    const error = before.reduce((sum, value, i) => sum + (value - after[i]!) ** 2, 0);
    expect(Math.sqrt(error / energy)).toBeLessThan(0.2);
    expect(writeModel(integer).byteLength).toBeLessThan(writeModel(float).byteLength);
  });
});

/** All outputs on the first training image. */
async function answers(network: Model, data: Dataset): Promise<number[]> {
  const fed = withImageInput(network, data);
  const session = await Session.create(writeModel(fed));
  const { images, shape: batch } = batchOf(data, data.train, [0]);
  const results = await session.run({ [session.inputNames[0]!]: float32Tensor(batch, images) });
  await session.release();
  return Object.values(results).flatMap((tensor) => [...floatsOf(tensor)]);
}

/** Random images with smooth brightness, so that ranges differ from image to image. */
function noise(size: Dataset['shape'], count: number): Dataset {
  const random = seededRandom(9);
  const pixels = elementCount(size);
  const images = new Uint8Array(count * pixels);
  for (let n = 0; n < count; n++) {
    const brightness = 40 + 215 * random.uniform();
    for (let i = 0; i < pixels; i++) images[n * pixels + i] = brightness * random.uniform();
  }
  const split = { count, images, labels: new Uint8Array(count) };
  const normalization = { mean: new Array(size[0]).fill(0.4), std: new Array(size[0]).fill(0.2) };
  return {
    name: 'noise',
    classes: ['a'],
    shape: size,
    train: split,
    validation: split,
    test: split,
    normalization,
  };
}
