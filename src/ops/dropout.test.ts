import { expect, test } from 'vitest';
import { float32Tensor, floatsOf, int64Tensor } from '../base/tensor.ts';
import { Session } from '../engine/session.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { DEFAULT_RATIO, Dropout } from './dropout.ts';

const COUNT = 4000;
const ones = float32Tensor([40, 100], new Float32Array(COUNT).fill(1));

/** Two Dropout nodes over ones, in training form; their outputs and the gradient of the first for dy = 1. */
async function train(ratio: number | undefined, seed: number | undefined) {
  const build = new GraphBuilder('dropout');
  const x = build.input('x', 'float32', ones.shape);
  const stepSeed = seed === undefined ? undefined : build.input('seed', 'int64', []);
  const given = ratio === undefined ? undefined : build.scalar(ratio);
  const kept = new Map<string, string>();
  for (const output of ['y', 'z']) {
    Dropout.training({
      node: {
        name: output,
        opType: 'Dropout',
        domain: '',
        inputs: ['x', given ?? ''],
        outputs: [output],
        attributes: new Map(),
        docString: '',
      },
      opset: 17,
      build,
      x: (input) => (input === 0 ? x : given!),
      constant: () => undefined,
      xShape: () => ones.shape,
      keep: (key, value) => kept.set(output + key, value),
      update: () => {},
      stepSeed,
    });
    build.output(output, 'float32');
  }
  build.output(build.op('Mul', [x, kept.get('yfactor')!], {}, { outputs: ['dx'] }), 'float32');
  const session = await Session.create(writeModel(modelOf(build.finish())));
  const outputs = await session.run({
    x: ones,
    ...(seed === undefined ? {} : { seed: int64Tensor([seed], []) }),
  });
  await session.release();
  return { y: floatsOf(outputs.y!), z: floatsOf(outputs.z!), dx: floatsOf(outputs.dx!) };
}

test('drops the stated share and scales what stays, the same in both directions', async () => {
  const { y, dx } = await train(0.25, 7);
  const dropped = y.filter((value) => value === 0).length / COUNT;
  // Three standard deviations of a binomial share: 3 · √(0.25 · 0.75 / 4000) = 0.02.
  expect(Math.abs(dropped - 0.25)).toBeLessThan(0.02);
  expect(y.every((value) => value === 0 || Math.abs(value - 4 / 3) < 1e-6)).toBe(true);
  expect(dx).toEqual(y);
});

test('the mask is a function of the seed and differs between steps, nodes and neighbours', async () => {
  const [first, again, next] = [
    await train(undefined, 1),
    await train(undefined, 1),
    await train(undefined, 2),
  ];
  expect(again).toEqual(first);
  const agreement = (a: Float32Array, b: Float32Array) =>
    a.filter((value, i) => value === b[i]).length / COUNT;
  // Independent masks of ratio 1/2 agree on half; three standard deviations are 0.024.
  expect(DEFAULT_RATIO).toBe(0.5);
  for (const other of [next.y, first.z, Float32Array.from(first.y, (_, i) => first.y[(i + 1) % COUNT]!)]) {
    expect(Math.abs(agreement(first.y, other) - 0.5)).toBeLessThan(0.024);
  }
});

test('without a seed the training form is the identity', async () => {
  expect((await train(0.5, undefined)).y).toEqual(floatsOf(ones));
});
