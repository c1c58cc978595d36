import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import {
  elementCount,
  elementsOf,
  float32Tensor,
  floatsOf,
  numbersOf,
  type Tensor,
} from '../../base/tensor.ts';
import { probeSaturation } from '../../engine/probe-saturation.ts';
import { Session } from '../../engine/session.ts';
import { float } from '../../graph/attributes.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { type Model, type Shape, withGraph } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { inputsFor, LAYERS, randomNetwork } from '../prune/networks.fixture.ts';
import {
  activationScale,
  BIAS_MAX,
  quantizeWeight,
  RANGE_OF_ZERO,
  type Range,
  REDUCED_WEIGHT_MAX,
} from './integers.ts';
import { prepareQuantization } from './prepare.ts';
import { observedValues, type QuantizeOptions, quantize } from './quantize.ts';

const reduceRange = await probeSaturation();
/** By how much more results may be off where weights have 7 bits: they are twice as coarse, activations are not. */
const COARSENESS = reduceRange ? 1.5 : 1;

const random = seededRandom(7);
const tensor = (shape: readonly number[], gain = 1): Tensor =>
  float32Tensor(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => gain * random.normal()),
  );

describe('integers', () => {
  test('an activation range holds 0, whose integer is exact, and every value is at most half a step off', () => {
    for (const range of [
      { min: -1, max: 3 },
      { min: 0.5, max: 2 },
      { min: -4, max: -1 },
      { min: 0, max: 1e-30 },
    ]) {
      const { scale, zeroPoint } = activationScale(range);
      expect(zeroPoint).toBe(Math.round(zeroPoint));
      for (let i = 0; i <= 20; i++) {
        const x = range.min + (i / 20) * (range.max - range.min);
        const q = Math.min(Math.max(Math.round(x / scale) + zeroPoint, 0), 255);
        // One step at the ends, because the zero point is rounded.
        expect(Math.abs((q - zeroPoint) * scale - x)).toBeLessThanOrEqual(scale * 1.0001);
      }
    }
    expect(activationScale({ min: 0, max: 0 })).toEqual(activationScale(RANGE_OF_ZERO));
    expect(activationScale({ min: 0, max: 1e-44 })).toEqual(activationScale(RANGE_OF_ZERO));
    for (const range of [
      { min: 1, max: 0 },
      { min: Number.NaN, max: 1 },
      { min: 0, max: Number.POSITIVE_INFINITY },
    ]) {
      expect(() => activationScale(range)).toThrow(/finite/);
    }
  });

  test('no integer stands for more than a bound, whatever it rounds to', () => {
    for (let i = 1; i < 500; i++) {
      const bound = Math.fround(i * 0.37);
      const { scale, zeroPoint } = activationScale({ min: 0, max: bound * 2 }, bound);
      expect(Math.fround(Math.fround(scale) * (255 - zeroPoint))).toBeLessThanOrEqual(bound);
      expect(scale * 255).toBeGreaterThan(bound * 0.9999);
    }
  });

  test.each([0, 1])('weights have a scale of their own for each channel along axis %i', (axis) => {
    const weight = tensor([4, 4, 3]);
    const bias = tensor([4]);
    const {
      weight: q,
      scale,
      bias: qb,
      biasScale,
    } = quantizeWeight(weight, axis, { bias, inputScale: 0.02 });
    const [w, integers] = [floatsOf(weight), numbersOf(q)];
    const used = new Float64Array(4);
    integers.forEach((value, i) => {
      const channel = axis === 0 ? Math.floor(i / 12) : Math.floor(i / 3) % 4;
      expect(Math.abs(value * scale[channel]! - w[i]!)).toBeLessThanOrEqual(scale[channel]! * 0.5001);
      used[channel] = Math.max(used[channel]!, Math.abs(value));
    });
    expect([...used]).toEqual([127, 127, 127, 127]);
    numbersOf(qb!).forEach((value, c) => {
      expect(Math.abs(value * biasScale[c]! - floatsOf(bias)[c]!)).toBeLessThanOrEqual(biasScale[c]!);
    });
  });

  test('seven bits keep pairs of products within 16 bits', () => {
    const { weight } = quantizeWeight(tensor([2, 50]), 0, { inputScale: 1, reduceRange: true });
    const largest = Math.max(...numbersOf(weight).map(Math.abs));
    expect(largest).toBe(REDUCED_WEIGHT_MAX);
    expect(2 * 255 * largest).toBeLessThan(2 ** 15);
  });

  test('channels of zeros, and biases that dwarf their weights, stay exact and fit', () => {
    const weight = float32Tensor([3, 2], [0, 0, 0, 0, 1e-12, -1e-12]);
    const bias = float32Tensor([3], [0, 5, 5]);
    const made = quantizeWeight(weight, 0, { bias, inputScale: 0.01 });
    for (const [c, value] of numbersOf(made.bias!).entries()) {
      expect(Math.abs(value)).toBeLessThanOrEqual(BIAS_MAX * 1.001);
      expect(value * made.biasScale[c]!).toBeCloseTo([0, 5, 5][c]!, 6);
      expect(made.scale[c]).toBeGreaterThan(0);
    }
    expect(() => quantizeWeight(float32Tensor([1, 1], [Number.NaN]), 0, { inputScale: 1 })).toThrow(
      /Channel 0/,
    );
  });
});

describe('quantize', () => {
  test.each(LAYERS.map((layer, i) => [layer, i] as const))(
    'a network with %s computes nearly the same, and the integer kernels what the QDQ form says',
    async (layer, seed) => {
      const model = randomNetwork(['bn-relu', layer, 'conv', 'bn-relu'], seed % 2 ? 'flatten' : 'gap', seed);
      const { errors, operators } = await compare(model);
      expect(errors.fromFloat).toBeLessThan(0.1 * COARSENESS);
      expect(errors.fromForm).toBeLessThan(0.05);
      expect(operators).not.toContain('Conv');
      expect(operators).toContain('QLinearConv');
      expect(operators).toContain('QGemm');
    },
  );

  test('what surrounds convolutions is fused: one conversion at the start, none inside', async () => {
    const model = network(['N', 3, 8, 8], (b, x) => {
      const conv = (input: string, from: number, to: number) =>
        b.op('Conv', [input, b.constant(tensor([to, from, 3, 3], 0.3)), b.constant(tensor([to]))], {
          pads: [1, 1, 1, 1],
        });
      const stem = b.op('Relu', [conv(x, 3, 8)]);
      const sum = b.op('Relu', [b.op('Add', [stem, conv(b.op('Relu', [conv(stem, 8, 8)]), 8, 8)])]);
      const capped = b.op('Clip', [conv(sum, 8, 8), b.scalar(0), b.scalar(0.75)]);
      const pooled = b.op('MaxPool', [capped], { kernel_shape: [2, 2], strides: [2, 2] });
      const silu = conv(pooled, 8, 8);
      const leaky = b.op('LeakyRelu', [conv(pooled, 8, 4)], { alpha: float(0.1) });
      const both = b.op('Concat', [b.op('Mul', [silu, b.op('Sigmoid', [silu])]), leaky], { axis: 1 });
      const halved = b.op('AveragePool', [both], { kernel_shape: [2, 2], strides: [2, 2] });
      const flat = b.op('Reshape', [halved, b.ints([0, -1])]);
      return b.op('Gemm', [flat, b.constant(tensor([48, 5], 0.2)), b.constant(tensor([5]))]);
    });
    const { operators, errors } = await compare(model);
    const layout = new Set(['Transpose', 'Reshape']);
    expect(operators.filter((name) => !layout.has(name)).sort()).toEqual(
      [
        'QuantizeLinear',
        ...Array(6).fill('QLinearConv'),
        'QLinearAdd',
        'NhwcMaxPool',
        'QLinearSigmoid',
        'QLinearMul',
        'QLinearLeakyRelu',
        'QLinearConcat',
        'QLinearAveragePool',
        'QGemm',
      ].sort(),
    );
    expect(errors.fromFloat).toBeLessThan(0.1 * COARSENESS);
  });

  test('matrix products with stored weights run in integers, columns and rows scaled each by themselves', async () => {
    // Columns of very different size: one scale for all would lose the small ones.
    const columns = float32Tensor(
      [6, 4],
      Float32Array.from({ length: 24 }, (_, i) => random.normal() * 10 ** -(i % 4)),
    );
    const rows = float32Tensor(
      [4, 6],
      Float32Array.from({ length: 24 }, (_, i) => random.normal() * 10 ** -Math.floor(i / 6)),
    );
    for (const [write, operator] of [
      [(b: GraphBuilder, x: string) => b.op('MatMul', [x, b.constant(columns)]), 'MatMulIntegerToFloat'],
      [
        (b: GraphBuilder, x: string) =>
          b.op('Add', [b.op('MatMul', [x, b.constant(columns)]), b.floats([1, 2, 3, 4])]),
        'QGemm',
      ],
      [(b: GraphBuilder, x: string) => b.op('Gemm', [x, b.constant(columns)]), 'QGemm'],
      [(b: GraphBuilder, x: string) => b.op('Gemm', [x, b.constant(rows)], { transB: 1 }), 'QGemm'],
    ] as const) {
      const model = network(['N', 6], write);
      const { operators, actual, expected } = await compare(model);
      expect(operators).toContain(operator);
      for (let column = 0; column < 4; column++) {
        const scale = Math.abs(expected[column]!) + 10 ** -column;
        expect(Math.abs(actual[column]! - expected[column]!)).toBeLessThan(
          (reduceRange ? 0.045 : 0.03) * scale,
        );
      }
    }
  });

  test('a Pad that adds nothing does not break a run of integers; one that adds something stays', async () => {
    const padded = (amount: number) =>
      network(['N', 2, 4, 4], (b, x) => {
        const y = b.op('Conv', [x, b.constant(tensor([4, 2, 1, 1]))]);
        const padded = b.op('Pad', [
          b.op('Pad', [y, b.ints([0, 0, 0, 0, 0, 0, 0, 0])]),
          b.ints([0, 0, 0, 0, 0, 0, 0, amount]),
        ]);
        const pooled = b.op('AveragePool', [padded], { kernel_shape: [2, 2], pads: [0, 0, 0, 0] });
        return b.op('Conv', [pooled, b.constant(tensor([2, 4, 1, 1]))]);
      });
    const idle = await compare(padded(0));
    expect(idle.operators.filter((name) => name.startsWith('QLinear')).sort()).toEqual([
      'QLinearAveragePool',
      'QLinearConv',
      'QLinearConv',
    ]);
    expect(idle.errors.fromFloat).toBeLessThan(0.05);
    const real = await compare(padded(1));
    expect(real.quantized.graph.nodes.filter((node) => node.opType === 'Pad')).toHaveLength(1);
    expect(real.errors.fromFloat).toBeLessThan(0.05);
  });

  test('the product of a token sequence with a bias behind it runs in integers', async () => {
    const model = network(['N', 7, 6], (b, x) => {
      const hidden = b.op('Add', [b.op('MatMul', [x, b.constant(tensor([6, 8]))]), b.constant(tensor([8]))]);
      return b.op('Add', [
        b.constant(tensor([4])),
        b.op('MatMul', [b.op('Tanh', [hidden]), b.constant(tensor([8, 4]))]),
      ]);
    });
    const { operators, errors } = await compare(model);
    expect(operators.filter((name) => name === 'QLinearMatMul')).toHaveLength(2);
    expect(operators).not.toContain('Gemm');
    expect(errors.fromFloat).toBeLessThan(0.05);
  });

  test('excluded nodes stay in floating point, unknown operators too, outputs keep their names', async () => {
    const model = network(['N', 2, 6, 6], (b, x) => {
      const conv = (input: string, name: string) =>
        b.op('Conv', [input, b.constant(tensor([2, 2, 3, 3], 0.3))], { pads: [1, 1, 1, 1] }, { name });
      const tanh = b.op('Tanh', [conv(x, 'first')]);
      const last = conv(conv(tanh, 'second'), 'third');
      b.output(tanh, 'float32');
      return last;
    });
    const { operators, quantized } = await compare(model, { exclude: ['second'] });
    expect(operators.filter((name) => name.endsWith('Conv')).sort()).toEqual([
      'Conv',
      'QLinearConv',
      'QLinearConv',
    ]);
    expect(operators).toContain('Tanh');
    expect(quantized.graph.outputs).toEqual(model.graph.outputs);
    expect(quantized.graph.inputs).toEqual(model.graph.inputs);
    expect(() => quantize(model, new Map(), { exclude: ['nothing'] })).toThrow(/first, second, third/);
  });

  test('the input is not changed; missing ranges, integers already there and nothing to do are refused', async () => {
    const model = randomNetwork(['bn-relu', 'residual'], 'gap', 3);
    const before = structuredClone(model.graph.initializers);
    const ranges = await rangesOf(model, inputsFor(model, 1));
    const quantized = quantize(model, ranges);
    expect(model.graph.initializers).toEqual(before);
    expect(writeModel(quantize(model, ranges))).toEqual(writeModel(quantized));
    expect(() => quantize(quantized, ranges)).toThrow(/quantised already/);
    expect(() => quantize(model, new Map([...ranges].slice(1)))).toThrow(/ranges of 1 values are missing/);
    const nothing = network(['N', 2], (b, x) => b.op('Relu', [x]));
    expect(() => quantize(nothing, new Map())).toThrow(/Nothing in the network can be quantised/);
  });

  test('a value that only moves keeps the scale of what it was made from', async () => {
    const model = network(['N', 2, 4, 4], (b, x) => {
      const y = b.op('Conv', [x, b.constant(tensor([4, 2, 1, 1]))]);
      const moved = b.op('Transpose', [b.op('MaxPool', [y], { kernel_shape: [2, 2] })], {
        perm: [0, 1, 3, 2],
      });
      return b.op('Conv', [moved, b.constant(tensor([2, 4, 1, 1]))]);
    });
    expect(observedValues(model)).toHaveLength(3); // The image, and what each convolution gives.
    const { operators } = await compare(model);
    expect(operators.filter((name) => name === 'QuantizeLinear')).toHaveLength(1);
  });
});

function network(shape: Shape, write: (b: GraphBuilder, x: string) => string): Model {
  const b = new GraphBuilder('net');
  b.output(write(b, b.input('x', 'float32', shape)), 'float32');
  return modelOf(b.finish());
}

/** The ranges of all observed values on one input, as ONNX Runtime computes them. */
async function rangesOf(
  model: Model,
  feeds: Record<string, Tensor>,
  options: QuantizeOptions = {},
): Promise<Map<string, Range>> {
  const prepared = prepareQuantization(model);
  const values = observedValues(model, options);
  const computed = values.filter((value) => feeds[value] === undefined);
  const outputs = computed.map((name) => ({ name, type: { dtype: 'float32' as const } }));
  const session = await Session.create(writeModel(withGraph(prepared, { ...prepared.graph, outputs })));
  const results = { ...feeds, ...(computed.length > 0 && (await session.run(feeds))) };
  await session.release();
  return new Map(
    values.map((value) => {
      const seen = floatsOf(results[value]!);
      return [value, { min: Math.min(...seen), max: Math.max(...seen) }];
    }),
  );
}

/**
 * Quantises on the ranges of one input and compares on it: the float network, the QDQ form computed literally (no
 * optimisation), and the integer kernels. Errors are relative to the largest output.
 */
/** Of a network as this machine's kernels need it: weights in 7 bits where they saturate on 8. */
async function compare(model: Model, given: QuantizeOptions = {}) {
  const options: QuantizeOptions = { reduceRange, ...given };
  const feeds = inputsFor(model, 1);
  const quantized = quantize(model, await rangesOf(model, feeds, options), options);
  const bytes = writeModel(quantized);
  const output = model.graph.outputs.at(-1)!.name;
  const folder = await mkdtemp(join(tmpdir(), 'bonsai-quantize-'));
  try {
    const optimizedModelPath = join(folder, 'optimized.onnx');
    const answers: Float32Array[] = [];
    for (const session of [
      await Session.create(writeModel(model)),
      await Session.create(bytes, { optimization: 'disabled' }),
      await Session.create(bytes, { optimizedModelPath }),
    ]) {
      answers.push(elementsOf((await session.run(feeds))[output]!) as Float32Array); // The outputs are float32.
      await session.release();
    }
    const [expected, form, actual] = answers as [Float32Array, Float32Array, Float32Array];
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const error = (other: Float32Array) =>
      actual.reduce((worst, value, i) => Math.max(worst, Math.abs(value - other[i]!)), 0) / largest;
    const optimized = readModel(await readFile(optimizedModelPath));
    return {
      quantized,
      expected,
      actual,
      operators: optimized.graph.nodes.map((node) => node.opType),
      errors: { fromFloat: error(expected), fromForm: error(form) },
    };
  } finally {
    await rm(folder, { recursive: true });
  }
}
