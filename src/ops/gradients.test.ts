import { describe, expect, it } from 'vitest';
import { seededRandom } from '../base/random.ts';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../base/tensor.ts';
import { Session } from '../engine/session.ts';
import { float } from '../graph/attributes.ts';
import { type AttributeValues, GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { lowerTrainingStep } from '../transform/lower/lower.ts';
import { COMPOUND_DOMAIN } from './compound.ts';
import { type ConvGeometry, type WeightGradientForm, weightGradient } from './conv-gradients.ts';
import { inferTypes } from './infer.ts';
import { recordFor } from './table.ts';

/** One node with float inputs of these shapes; the gradient of Σ y·r is compared with central differences. */
interface Case {
  readonly name: string;
  readonly opType: string;
  readonly shapes: readonly (readonly number[])[];
  readonly attributes?: AttributeValues;
}

const conv = (name: string, shapes: Case['shapes'], attributes: AttributeValues): Case => ({
  name: `Conv ${name}`,
  opType: 'Conv',
  shapes,
  attributes,
});

const CASES: readonly Case[] = [
  conv('3×3 with bias', [[2, 3, 5, 6], [4, 3, 3, 3], [4]], { pads: [1, 1, 1, 1] }),
  conv(
    'wide, stride 1',
    [
      [1, 33, 4, 3],
      [34, 33, 3, 3],
    ],
    { pads: [1, 1, 1, 1] },
  ),
  conv(
    'wide, stride 2',
    [
      [1, 33, 5, 4],
      [34, 33, 3, 3],
    ],
    { pads: [1, 1, 1, 1], strides: [2, 2] },
  ),
  conv(
    'medium, uneven pads',
    [
      [2, 5, 5, 6],
      [6, 5, 3, 2],
    ],
    { pads: [0, 2, 1, 0] },
  ),
  conv(
    'stride 2 that leaves a rest',
    [
      [2, 5, 6, 7],
      [6, 5, 3, 3],
    ],
    { pads: [1, 1, 0, 1], strides: [2, 2] },
  ),
  conv(
    'more padding than the kernel reaches',
    [
      [1, 2, 4, 4],
      [3, 2, 2, 2],
    ],
    { pads: [2, 1, 1, 2] },
  ),
  conv(
    'dilated',
    [
      [2, 5, 7, 8],
      [6, 5, 3, 3],
    ],
    { pads: [2, 1, 2, 2], dilations: [2, 2] },
  ),
  conv(
    'dilated and strided',
    [
      [1, 2, 9, 8],
      [3, 2, 3, 2],
    ],
    { strides: [2, 3], dilations: [2, 1], pads: [1, 0, 2, 1] },
  ),
  conv(
    '1×1',
    [
      [2, 6, 3, 4],
      [5, 6, 1, 1],
    ],
    {},
  ),
  conv(
    '1×1 stride 2',
    [
      [2, 6, 5, 4],
      [5, 6, 1, 1],
    ],
    { strides: [2, 2] },
  ),
  conv(
    'depthwise',
    [
      [2, 4, 5, 5],
      [4, 1, 3, 3],
    ],
    { group: 4, pads: [1, 1, 1, 1] },
  ),
  conv(
    'depthwise, two filters a channel, stride 2',
    [
      [2, 3, 6, 5],
      [6, 1, 3, 3],
    ],
    { group: 3, pads: [1, 1, 1, 1], strides: [2, 2] },
  ),
  conv(
    'grouped',
    [
      [2, 6, 4, 5],
      [4, 3, 3, 3],
    ],
    { group: 2, pads: [1, 1, 1, 1] },
  ),
  conv(
    'SAME_UPPER',
    [
      [1, 2, 5, 6],
      [3, 2, 4, 4],
    ],
    { auto_pad: 'SAME_UPPER', strides: [2, 2] },
  ),
  conv('one spatial axis', [[2, 3, 8], [4, 3, 3], [4]], { pads: [1, 1], strides: [2] }),
  { name: 'Gemm', opType: 'Gemm', shapes: [[3, 4], [4, 5], [5]] },
  {
    name: 'Gemm transB, scaled',
    opType: 'Gemm',
    shapes: [
      [3, 4],
      [5, 4],
      [1, 5],
    ],
    attributes: { transB: 1, alpha: 0.5, beta: float(2) },
  },
  {
    name: 'Gemm transA',
    opType: 'Gemm',
    shapes: [
      [4, 3],
      [4, 5],
      [3, 1],
    ],
    attributes: { transA: 1 },
  },
  {
    name: 'Gemm transA and transB',
    opType: 'Gemm',
    shapes: [
      [4, 3],
      [5, 4],
    ],
    attributes: { transA: 1, transB: 1 },
  },
  {
    name: 'MatMul of matrices',
    opType: 'MatMul',
    shapes: [
      [3, 4],
      [4, 2],
    ],
  },
  {
    name: 'MatMul by a weight',
    opType: 'MatMul',
    shapes: [
      [2, 3, 4],
      [4, 5],
    ],
  },
  {
    name: 'MatMul broadcast',
    opType: 'MatMul',
    shapes: [
      [2, 1, 3, 4],
      [3, 4, 2],
    ],
  },
  { name: 'MatMul with vectors', opType: 'MatMul', shapes: [[4], [3, 4, 2]] },
  { name: 'MatMul by a vector', opType: 'MatMul', shapes: [[2, 3, 4], [4]] },
  {
    name: 'MaxPool overlapping',
    opType: 'MaxPool',
    shapes: [[2, 3, 6, 5]],
    attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] },
  },
  {
    name: 'AveragePool',
    opType: 'AveragePool',
    shapes: [[2, 3, 6, 4]],
    attributes: { kernel_shape: [2, 2], strides: [2, 2] },
  },
  {
    name: 'AveragePool padded',
    opType: 'AveragePool',
    shapes: [[2, 3, 5, 6]],
    attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] },
  },
  {
    name: 'AveragePool with padding counted',
    opType: 'AveragePool',
    shapes: [[1, 2, 5, 5]],
    attributes: { kernel_shape: [3, 3], pads: [1, 1, 1, 1], count_include_pad: 1 },
  },
  {
    name: 'AveragePool rounding up',
    opType: 'AveragePool',
    shapes: [[1, 2, 6, 5]],
    attributes: { kernel_shape: [3, 2], strides: [2, 2], ceil_mode: 1 },
  },
  { name: 'GlobalAveragePool', opType: 'GlobalAveragePool', shapes: [[2, 3, 4, 5]] },
  { name: 'Softmax', opType: 'Softmax', shapes: [[3, 5]], attributes: { axis: 1 } },
  { name: 'LogSoftmax', opType: 'LogSoftmax', shapes: [[2, 4, 3]], attributes: { axis: 1 } },
  {
    name: 'ReduceMean',
    opType: 'ReduceMean',
    shapes: [[2, 3, 4]],
    attributes: { axes: [0, 2], keepdims: 0 },
  },
];

describe('gradients agree with finite differences', () => {
  for (const item of CASES)
    it(item.name, async () => expect(await gradientError(item)).toBeLessThan(GRADIENT_TOLERANCE));
});

/** Relative L2; central differences in float32 are good to about 1e-3. */
const GRADIENT_TOLERANCE = 5e-3;

describe('all forms of a convolution weight gradient give the same sum', () => {
  const size = { batch: 2, channels: 5, filters: 6, group: 1 } as const;
  for (const [stride, dilation] of [
    [1, 1],
    [1, 2],
    [2, 1],
  ] as const) {
    it(`stride ${stride}, dilation ${dilation}`, async () => {
      const output: [number, number] = stride === 1 ? (dilation === 1 ? [5, 7] : [3, 5]) : [3, 4];
      const form: ConvGeometry = {
        ...size,
        input: [6, 7],
        output,
        windows: {
          kernel: [3, 3],
          strides: [stride, stride],
          dilations: [dilation, dilation],
          padsBegin: [1, 1],
          padsEnd: [0, 1],
        },
      };
      const random = seededRandom(2);
      const feeds = { x: randomTensor([2, 5, 6, 7], random), dy: randomTensor([2, 6, ...output], random) };
      const forms: WeightGradientForm[] = [
        'per-offset',
        'per-offset-gemm',
        'columns',
        ...(stride === 1 ? ['separable' as const] : []),
      ];
      const results = await evaluate(feeds, (build) =>
        forms.map((way) => weightGradient(build, form, 'x', 'dy', way)),
      );
      for (const result of results)
        expect(distance(floatsOf(result), floatsOf(results[0]!))).toBeLessThan(1e-5);
    });
  }
});

async function gradientError(item: Case): Promise<number> {
  const random = seededRandom(7);
  const names = item.shapes.map((_, i) => `x${i}`);
  const feeds = Object.fromEntries(item.shapes.map((shape, i) => [names[i]!, distinctTensor(shape, random)]));
  const probe = new GraphBuilder('probe');
  for (const [name, { shape }] of Object.entries(feeds)) probe.input(name, 'float32', shape);
  probe.op(item.opType, names, item.attributes, { outputs: ['y'] });
  const graph = probe.finish();
  const node = graph.nodes[0]!;
  const yShape = inferTypes(modelOf(graph)).types.get('y')!.shape as number[];
  const r = randomTensor(yShape, random);
  const gradient = recordFor(node)!.gradient!;
  const write = (build: GraphBuilder) => {
    build.node(node);
    return build.op('ReduceSum', [build.op('Mul', ['y', 'r'])], { keepdims: 0 });
  };
  const analytic = await evaluate({ ...feeds, r }, (build) => {
    build.node(node);
    const values = gradient({
      node,
      opset: 17,
      build,
      dy: ['r'],
      needs: () => true,
      x: (i) => names[i]!,
      y: () => 'y',
      xShape: (i) => item.shapes[i]!,
      yShape: () => yShape,
      constant: () => undefined,
      kept: () => '',
    });
    return names.map((_, i) => values[i]!);
  });
  const session = await sessionOf({ ...feeds, r }, (build) => [write(build)]);
  let worst = 0;
  for (const [i, name] of names.entries()) {
    const base = floatsOf(feeds[name]!);
    // Directions rather than single elements: random ones see every element at once.
    const slope = floatsOf(analytic[i]!);
    expect(analytic[i]!.shape).toEqual(item.shapes[i]);
    const estimates: number[] = [];
    const expected: number[] = [];
    for (let trial = 0; trial < 6; trial++) {
      const direction = Float32Array.from(base, () => (random.uniform() < 0.5 ? -1 : 1));
      const at = async (step: number) => {
        const moved = base.map((value, j) => value + step * direction[j]!);
        const outputs = await session.run({ ...feeds, r, [name]: float32Tensor(item.shapes[i]!, moved) });
        return floatsOf(Object.values(outputs)[0]!)[0]!;
      };
      const step = 0.01;
      estimates.push(((await at(step)) - (await at(-step))) / (2 * step));
      expected.push(direction.reduce((sum, d, j) => sum + d * slope[j]!, 0));
    }
    worst = Math.max(worst, distance(Float32Array.from(expected), Float32Array.from(estimates)));
  }
  await session.release();
  return worst;
}

async function evaluate(
  feeds: Record<string, Tensor>,
  write: (build: GraphBuilder) => string[],
): Promise<Tensor[]> {
  const session = await sessionOf(feeds, write);
  const outputs = await session.run(feeds);
  await session.release();
  return session.outputNames.map((name) => outputs[name]!);
}

async function sessionOf(
  feeds: Record<string, Tensor>,
  write: (build: GraphBuilder) => string[],
): Promise<Session> {
  const build = new GraphBuilder('test');
  for (const [name, { shape }] of Object.entries(feeds)) build.input(name, 'float32', shape);
  for (const [i, value] of write(build).entries()) {
    build.output(build.op('Identity', [value], {}, { outputs: [`out${i}`] }), 'float32');
  }
  const domains = ['com.microsoft', COMPOUND_DOMAIN].map((domain) => ({ domain, version: 1 }));
  const model = modelOf(build.finish(), { extraOpsets: domains });
  return Session.create(writeModel(lowerTrainingStep(model, { block: 1 })));
}

function randomTensor(shape: readonly number[], random: ReturnType<typeof seededRandom>): Tensor {
  return float32Tensor(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
  );
}

/** Values at least 0.05 apart, in random order: a maximum does not change hands within a finite difference. */
function distinctTensor(shape: readonly number[], random: ReturnType<typeof seededRandom>): Tensor {
  const count = elementCount(shape);
  const order = Array.from({ length: count }, (_, i) => ({ i, key: random.uniform() })).sort(
    (a, b) => a.key - b.key,
  );
  const spacing = count > 200 ? 2 / count : 0.05;
  return float32Tensor(
    shape,
    order.map(({ i }) => (i - count / 2) * spacing),
  );
}

function distance(a: Float32Array, b: Float32Array): number {
  let [difference, size] = [0, 1e-12];
  for (const [i, value] of a.entries()) {
    difference += (value - b[i]!) ** 2;
    size += value ** 2;
  }
  return Math.sqrt(difference / size);
}
