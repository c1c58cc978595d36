import { expect, test } from 'vitest';
import { float32Tensor, floatsOf, scalarTensor, tensorOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { spread } from '../../ops/op-cases.fixture.ts';
import { unrounded } from './unrounded.ts';

const image = spread([2, 3, 4], 1, -9, 9);

async function answer(model: Model): Promise<Float32Array> {
  const session = await Session.create(writeModel(model));
  try {
    return floatsOf((await session.run({ image })).result!);
  } finally {
    await session.release();
  }
}

/** Values in steps, with one scale for all or one for each channel. */
function stepped(isEach: boolean, dequantizedBy = 1): Model {
  const b = new GraphBuilder('steps');
  const x = b.input('image', 'float32', ['batch', 3, 'length']);
  const scales = isEach ? float32Tensor([3], [0.5, 0.02, 0.03]) : scalarTensor(0.04);
  const zeros = isEach
    ? tensorOf('int8', [3], Int8Array.of(0, -5, 7))
    : tensorOf('int8', [], Int8Array.of(3));
  const [s, z] = [b.constant(scales), b.constant(zeros)];
  const q = b.op('QuantizeLinear', [x, s, z]);
  const other = b.constant(
    float32Tensor(
      scales.shape,
      floatsOf(scales).map((step) => step * dequantizedBy),
    ),
  );
  b.op('DequantizeLinear', [q, dequantizedBy === 1 ? s : other, z], {}, { outputs: ['result'] });
  b.output('result', 'float32');
  return modelOf(b.finish());
}

test.each([false, true])(
  'values stay within the ends of their range and at most half a step from what they were (a scale each: %s)',
  async (isEach) => {
    const model = stepped(isEach);
    const continuous = unrounded(model);
    expect(continuous.graph.nodes.map(({ opType }) => opType)).toEqual(['Max', 'Min']);
    const [before, after] = [await answer(model), await answer(continuous)];
    const step = (i: number) => (isEach ? [0.5, 0.02, 0.03][Math.floor(i / 4) % 3]! : 0.04);
    let moved = 0;
    for (const [i, value] of before.entries()) {
      expect(Math.abs(value - after[i]!)).toBeLessThanOrEqual(step(i) * 0.50001);
      if (after[i] !== floatsOf(image)[i]) moved++;
    }
    expect(moved).toBeGreaterThan(0); // Some lie beyond the ends.
    expect(moved).toBeLessThan(before.length);
  },
);

test('leaves alone what is no such pair: a value that is scaled anew, and networks without', () => {
  const rescaled = stepped(false, 2);
  expect(unrounded(rescaled)).toBe(rescaled);
});
