import { expect, test } from 'vitest';
import { elementsOf, tensorOf } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { probeSaturation } from './probe-saturation.ts';
import { Session } from './session.ts';

test('weights in the range that the probe recommends are multiplied exactly', async () => {
  const weight = (await probeSaturation()) ? 63 : 127;
  const [rows, inner, columns] = [8, 96, 24];
  const b = new GraphBuilder('product');
  const a = b.input('a', 'uint8', [rows, inner]);
  const w = b.constant(tensorOf('int8', [inner, columns], new Int8Array(inner * columns).fill(-weight)));
  b.output(b.op('MatMulInteger', [a, w]), 'int32');
  const session = await Session.create(writeModel(modelOf(b.finish())));
  const results = await session.run({
    a: tensorOf('uint8', [rows, inner], new Uint8Array(rows * inner).fill(255)),
  });
  await session.release();
  const sums = new Set(Array.from(elementsOf(Object.values(results)[0]!), Number));
  expect([...sums]).toEqual([-inner * 255 * weight]);
});
