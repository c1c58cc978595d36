import { describe, expect, test } from 'vitest';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../base/tensor.ts';
import { Session } from '../engine/session.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import type { Dim, Model, Shape } from '../graph/model.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { lowerTrainingStep } from '../transform/lower/lower.ts';
import { propagateLabels } from '../transform/prune/labels.ts';
import { maskChannels } from '../transform/prune/mask.ts';
import { removeChannels } from '../transform/prune/remove-channels.ts';
import { COMPOUND_DOMAIN } from './compound.ts';
import { COUPLING_CASES, type CouplingCase } from './coupling-cases.fixture.ts';
import { productOf } from './dims.ts';
import { inferTypes } from './infer.ts';
import type { OpRecord } from './op.ts';
import { LAW_CASES, type OpCase, spread } from './op-cases.fixture.ts';
import { OPERATORS } from './table.ts';

/** Relative L2 distance of a gradient from finite differences; what float32 leaves is around 1e-4. */
const GRADIENT_TOLERANCE = 1e-2;
/** Step of the central difference; cases keep their values further from kinks than that. */
const DIFFERENCE = 2e-3;
/** Relative L2 distance between a pruned and a masked network: rounding alone, in another order of summation. */
const COUPLING_TOLERANCE = 1e-5;

const RECORDS: readonly OpRecord[] = Object.values(OPERATORS);
const casesOf = (record: OpRecord): readonly OpCase[] =>
  LAW_CASES[record.schema.name as keyof typeof LAW_CASES]; // A record's name is its key in the table.

describe.each(RECORDS.map((record) => [record.schema.name, record] as const))('%s', (name, record) => {
  const cases = casesOf(record);

  test('has a case', () => {
    expect(cases.length).toBeGreaterThan(0);
    expect([...record.schema.since]).toEqual([...record.schema.since].sort((a, b) => a - b));
  });

  test.each(cases.map((item) => [item.title, item] as const))(
    'shape and folded value agree with ONNX Runtime: %s',
    async (_, item) => {
      const model = caseModel(name, item);
      const { types, constants } = inferTypes(model);
      const outputs = await runModel(model, feedsOf(item));
      for (const { name: output } of model.graph.outputs) {
        const actual = outputs[output]!;
        expect(types.get(output)).toEqual({ dtype: actual.dtype, shape: actual.shape });
        const folded = constants.get(output);
        if (folded !== undefined) expect(folded).toEqual(actual);
      }
      if (record.fold !== undefined && item.inputs.every((input) => input.isParameter)) {
        expect(constants.has('y0')).toBe(true);
      }
    },
  );

  test.each(cases.map((item) => [item.title, item] as const))(
    'shape holds for a batch without a size: %s',
    async (_, item) => {
      if (item.inputs.every((input) => input.isParameter)) return;
      const model = caseModel(name, item);
      const fed = model.graph.inputs.map((input) => [input.name, input.type!.shape!] as const);
      const batch = fed[0]![1][0];
      // Another input may broadcast over the batch; only those that share it get the name.
      const symbolic = Object.fromEntries(
        fed.map(([input, shape]) => [input, shape[0] === batch ? shape.with(0, 'N') : shape]),
      );
      const { types } = inferTypes(model, { inputs: symbolic });
      const outputs = await runModel(model, feedsOf(item));
      for (const { name: output } of model.graph.outputs) {
        const shape: Shape | undefined = types.get(output)?.shape;
        if (shape === undefined) continue; // Not knowing is allowed, guessing is not.
        const actual = outputs[output]!.shape;
        expect(shape.map((size, axis) => sizeAt(size, Number(batch)) ?? actual[axis])).toEqual(actual);
      }
    },
  );

  if (record.gradient !== undefined) {
    const differentiable = cases.filter((item) => item.gradient);
    test('has a case for its gradient', () => expect(differentiable.length).toBeGreaterThan(0));
    test.each(differentiable.map((item) => [item.title, item] as const))(
      'gradient agrees with finite differences: %s',
      async (_, item) => {
        await checkGradients(record, item);
      },
    );
  }

  const couplings = COUPLING_CASES[name as keyof typeof COUPLING_CASES] ?? [];
  if (record.coupling !== undefined && name !== 'Constant') {
    test('has a case for its coupling', () => expect(couplings.length).toBeGreaterThan(0));
  }
  test.each(couplings.map((item) => [item.title, item] as const))(
    'removing channels equals masking them: %s',
    async (_, item) => {
      await checkCoupling(name, item);
    },
  );
});

/** What a size is where N is the batch; undefined where it says nothing but that it is some size ("y0:0"). */
function sizeAt(size: Dim, batch: number): number | undefined {
  const product = productOf([size]);
  if (product?.names.every((name) => name === 'N') !== true) return undefined;
  return product.names.reduce((value) => value * batch, product.count);
}

/** The node alone: fed inputs x0, x1, … and stored ones, outputs y0, y1, … */
function caseModel(name: string, item: OpCase): Model {
  const build = new GraphBuilder('case');
  const inputs = item.inputs.map(({ value, isParameter }, i) => {
    if (value === undefined) return undefined;
    return isParameter ? build.initializer(`x${i}`, value) : build.input(`x${i}`, value.dtype, value.shape);
  });
  const outputs = Array.from({ length: item.outputs }, (_, i) => `y${i}`);
  build.ops(name, inputs, item.attributes, { outputs });
  const model = modelOf(build.finish(), { opset: item.opset });
  const { types } = inferTypes(model);
  for (const output of outputs) build.output(output, types.get(output)!.dtype);
  return modelOf(build.finish(), { opset: item.opset });
}

function feedsOf(item: OpCase): Record<string, Tensor> {
  return Object.fromEntries(
    item.inputs.flatMap(({ value, isParameter }, i) =>
      value === undefined || isParameter ? [] : [[`x${i}`, value]],
    ),
  );
}

/**
 * With loss Σ y·r for fixed random r, the record's gradient is compared with (loss(x + h) - loss(x - h)) / 2h for each
 * element of each float input; the forward pass is the operator's training form where it has one.
 */
async function checkGradients(record: OpRecord, item: OpCase): Promise<void> {
  const name = record.schema.name;
  const plain = caseModel(name, item);
  const { types } = inferTypes(plain);
  const node = plain.graph.nodes[0]!;
  const feeds: Record<string, Tensor> = {};
  const wanted = item.inputs.flatMap(({ value }, i) => {
    if (value?.dtype !== 'float32') return [];
    feeds[`x${i}`] = value;
    return isStatistic(name, i) ? [] : [i];
  });

  // All float inputs are fed, so that they can be varied.
  const build = new GraphBuilder('law');
  for (const [i, { value }] of item.inputs.entries()) {
    if (value === undefined) continue;
    if (value.dtype === 'float32') build.input(`x${i}`, 'float32', value.shape);
    else build.initializer(`x${i}`, value);
  }
  const kept = new Map<string, string>();
  const shapeOf = (value: string | undefined) => types.get(value ?? '')?.shape as readonly number[]; // Cases have only known sizes.
  const common = {
    node,
    opset: item.opset,
    build,
    x: (input: number) => node.inputs[input]!,
    xShape: (input: number) => shapeOf(node.inputs[input]),
    constant: (input: number) => (item.inputs[input]?.isParameter ? item.inputs[input].value : undefined),
  };
  record.training?.({ ...common, keep: (key, value) => kept.set(key, value), update: () => {} });
  if (record.training === undefined) build.node(node);
  const forward = build.finish();
  const dy = node.outputs.map((output, i) =>
    types.get(output)!.dtype === 'float32'
      ? build.constant(spread(shapeOf(output), 600 + i, -1, 1), `r${i}`)
      : undefined,
  );
  const isForwardPortable = record.training !== undefined || item.opset <= 17;
  const gradients = record.gradient!({
    ...common,
    dy,
    needs: (input) => wanted.includes(input),
    y: (output) => node.outputs[output]!,
    yShape: (output) => shapeOf(node.outputs[output]),
    kept: (key) => kept.get(key)!,
  });
  const isTraining = record.training !== undefined;
  const withOutputs = (graph: Model['graph'], outputs: readonly string[], opset: number): Model =>
    lowerTrainingStep(
      modelOf(
        { ...graph, outputs: outputs.map((value) => ({ name: value, type: { dtype: 'float32' } })) },
        { opset, extraOpsets: ['com.microsoft', COMPOUND_DOMAIN].map((domain) => ({ domain, version: 1 })) },
      ),
      { block: 1 },
    );
  const session = await Session.create(
    writeModel(
      withOutputs(
        forward,
        node.outputs.filter((_, i) => dy[i] !== undefined),
        isTraining ? 17 : item.opset,
      ),
    ),
  );
  const backward = withOutputs(
    build.finish(),
    wanted.flatMap((input) => gradients[input] ?? []),
    isForwardPortable ? 17 : item.opset,
  );
  const analytic = await runModel(backward, feeds);
  const weights = dy.map((value) =>
    value === undefined ? undefined : floatsOf(backward.graph.initializers.get(value)!),
  );
  const loss = async (): Promise<number> => {
    const outputs = await session.run(feeds);
    let sum = 0;
    for (const [i, output] of node.outputs.entries()) {
      const r = weights[i];
      if (r === undefined) continue;
      floatsOf(outputs[output]!).forEach((value, at) => {
        sum += value * r[at]!;
      });
    }
    return sum;
  };

  for (const input of wanted) {
    const given = feeds[`x${input}`]!;
    const gradient = gradients[input];
    if (gradient === undefined) continue; // Limits of Clip and the like have none.
    const actual = analytic[gradient]!;
    expect(actual.shape).toEqual(given.shape);
    const numeric = new Float64Array(elementCount(given.shape));
    for (let i = 0; i < numeric.length; i++) {
      const [above, below] = [DIFFERENCE, -DIFFERENCE].map((step) => {
        const values = floatsOf(given).slice();
        values[i] = values[i]! + step;
        return { tensor: float32Tensor(given.shape, values), at: values[i]! };
      });
      feeds[`x${input}`] = above!.tensor;
      const up = await loss();
      feeds[`x${input}`] = below!.tensor;
      numeric[i] = (up - (await loss())) / (above!.at - below!.at);
    }
    feeds[`x${input}`] = given;
    expect(distance(floatsOf(actual), numeric)).toBeLessThan(GRADIENT_TOLERANCE);
  }
  expect(wanted.some((input) => gradients[input] !== undefined)).toBe(true);
  await session.release();
}

/** Running averages are state, not parameters: their gradient does not exist. */
function isStatistic(name: string, input: number): boolean {
  return name === 'BatchNormalization' && input >= 3;
}

/** Removes single channels and a set of them, and compares with the full network that does not read them. */
async function checkCoupling(name: string, item: CouplingCase): Promise<void> {
  const model = couplingModel(name, item);
  const feeds = { image: spread([2, 4, 4, 4], 700, 0, 1) };
  const propagation = propagateLabels(model);
  const free = [...new Set(propagation.roots)].filter((root) => !propagation.frozen.has(root));
  if (item.isFrozen) {
    expect(free).toEqual([]);
    return;
  }
  expect(free.length).toBeGreaterThan(1);
  const whole = floatsOf((await runModel(model, feeds)).logits!);
  const sets = [[free[0]!], [free.at(-1)!], [free[0]!, free[free.length >> 1]!].slice(0, free.length - 1)];
  let largestChange = 0;
  for (const removed of sets) {
    const pruned = removeChannels(propagation, removed);
    const result = floatsOf((await runModel(pruned, feeds)).logits!);
    const masked = floatsOf((await runModel(maskChannels(propagation, removed), feeds)).logits!);
    expect(sizeOf(pruned)).toBeLessThan(sizeOf(model));
    if (item.isInexact) {
      expect(removed.every((label) => propagation.inexact.has(label))).toBe(true);
      expect(result.every(Number.isFinite)).toBe(true);
    } else expect(distance(result, masked)).toBeLessThan(COUPLING_TOLERANCE);
    largestChange = Math.max(largestChange, distance(result, whole));
  }
  // Channels that were removed mattered, or agreement would prove nothing.
  expect(largestChange).toBeGreaterThan(100 * COUPLING_TOLERANCE);
}

function couplingModel(name: string, item: CouplingCase): Model {
  const build = new GraphBuilder('coupling');
  const image = build.input('image', 'float32', [item.batch, 4, 4, 4]);
  const producer = (seed: number): string => {
    const w = build.constant(spread([item.channels, 4, 1, 1], 800 + seed, 0.05, 0.5), 'producer/w');
    const channels = build.op('Conv', [
      image,
      w,
      build.constant(spread([item.channels], 810 + seed, 0, 0.2), 'producer/b'),
    ]);
    if (item.form === 'image') return channels;
    const mean = build.op('GlobalAveragePool', [channels]);
    return item.form === 'mean' ? mean : build.op('Flatten', [mean]);
  };
  const channels = producer(0);
  const inputs = [
    item.isCondition
      ? build.op('Greater', [channels, build.scalar(0.3)])
      : item.isQuantized
        ? build.op('Cast', [build.op('Mul', [channels, build.scalar(50)])], { to: 2 })
        : channels,
    ...item.others.map((other, i) => (other === 'branch' ? producer(i + 1) : build.constant(other, 'other'))),
  ];
  const outputs = build.ops(name, inputs, item.attributes, { outputs: item.outputs });
  const { types } = inferTypes(modelOf(build.finish(), { opset: item.opset }));
  const parts = outputs.map((value) => {
    const shape = types.get(value)!.shape!;
    const numbers = types.get(value)!.dtype === 'float32' ? value : build.op('Cast', [value], { to: 1 });
    const flat = shape.length === 2 ? numbers : build.op('Flatten', [numbers]);
    const width = elementCount(shape.slice(1).map(Number));
    return build.op('MatMul', [flat, build.constant(spread([width, 3], 900, -1, 1), 'consumer/w')]);
  });
  const sum = parts.reduce((a, b) => build.op('Add', [a, b]));
  build.output(build.op('Identity', [sum], {}, { outputs: ['logits'] }), 'float32');
  return modelOf(build.finish(), { opset: item.opset });
}

function sizeOf(model: Model): number {
  return [...model.graph.initializers.values()].reduce((sum, tensor) => sum + elementCount(tensor.shape), 0);
}

async function runModel(
  model: Model,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<Record<string, Tensor>> {
  // Outputs are declared without shapes, so that the engine reports what it computed.
  const session = await Session.create(writeModel(model));
  const names = new Set(session.inputNames);
  try {
    return await session.run(Object.fromEntries(Object.entries(feeds).filter(([name]) => names.has(name))));
  } finally {
    await session.release();
  }
}

/** |a - b| / |b|. */
function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [difference, norm] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return a.length === b.length
    ? Math.sqrt(difference / Math.max(norm, Number.MIN_VALUE))
    : Number.POSITIVE_INFINITY;
}
