import { describe, expect, it } from 'vitest';
import { float32Tensor, floatsOf, int64Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { writeModel } from '../graph/onnx/write.ts';
import { openBatch } from './open-batch.ts';
import { Session } from './session.ts';

/** x [batch, 2, 3] → Reshape to [1, 6] or [batch, 6] → sum of each row. */
function network(batch: number | 'N', target: readonly number[], asNode = false): Uint8Array {
  const b = new GraphBuilder('rows');
  const x = b.input('x', 'float32', [batch, 2, 3]);
  const shape = asNode
    ? b.op('Constant', [], { value: int64Tensor([...target]) })
    : b.constant(int64Tensor([...target]));
  const flat = b.op('Reshape', [x, shape]);
  const ones = b.constant(float32Tensor([6, 1], new Float32Array(6).fill(1)));
  b.output(b.op('MatMul', [flat, ones], {}, { outputs: ['sum'] }), 'float32', [batch, 1]);
  return writeModel(modelOf(b.finish()));
}

async function sums(bytes: Uint8Array, rows: number): Promise<number[]> {
  const session = await Session.create(bytes);
  try {
    const x = float32Tensor(
      [rows, 2, 3],
      Array.from({ length: 6 * rows }, (_, i) => i),
    );
    const { sum } = await session.run({ x });
    expect(sum!.shape).toEqual([rows, 1]);
    return [...floatsOf(sum!)];
  } finally {
    await session.release();
  }
}

describe('openBatch', () => {
  it.each([
    ['an initialiser', false],
    ['a node', true],
  ])('opens a batch of 1, and the target of a Reshape in %s', async (_, asNode) => {
    const opened = openBatch(network(1, [1, 6], asNode))!;
    expect(await sums(opened, 1)).toEqual([15]);
    expect(await sums(opened, 3)).toEqual([15, 51, 87]);
  });

  it('leaves other batches alone', () => {
    expect(openBatch(network('N', [-1, 6]))).toBeUndefined();
    expect(openBatch(network(4, [4, 6]))).toBeUndefined();
  });

  it('tells bytes that are no network', () => {
    expect(() => openBatch(new Uint8Array([1, 2, 3]))).toThrow(/Export the model again/);
  });
});
