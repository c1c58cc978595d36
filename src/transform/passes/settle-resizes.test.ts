import { describe, expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { elementCount, float32Tensor, floatsOf, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { dependencyGroups } from '../prune/groups.ts';
import { prune } from '../prune/prune.ts';
import { foldConstants } from './fold-constants.ts';
import { settleResizes } from './settle-resizes.ts';

const random = seededRandom(4);

describe('a Resize to sizes that the graph computes', () => {
  test.each(['nearest', 'linear'])('is asked for by factors, and computes the same: %s', async (mode) => {
    const model = resizing([10, 15], mode);
    const settled = foldConstants(settleResizes(model));
    expect(settled.graph.nodes.map((node) => node.opType)).toEqual([
      'Conv',
      'Resize',
      'GlobalMaxPool',
      'Flatten',
      'MatMul',
    ]);
    for (const batch of [1, 3]) {
      const image = tensor([batch, 2, 5, 6]);
      expect(await run(settled, image)).toEqual(await run(model, image));
    }
  });

  test('does not keep channels from being pruned', async () => {
    const model = foldConstants(resizing([10, 12], 'nearest'));
    expect(dependencyGroups(model).groups.map((group) => group.channels)).toEqual([8]);
    const pruned = prune(model, { ratio: 0.5, align: 1 }).model;
    expect((await run(pruned, tensor([2, 2, 5, 6]))).length).toBe(2 * 3);
  });

  test('stays as it is where the size before is unknown', () => {
    expect(settleResizes(resizing([10, 12], 'nearest', 'H')).graph.nodes).toContainEqual(
      expect.objectContaining({ opType: 'Resize', inputs: ['channels', '', '', 'sizes'] }),
    );
  });
});

/** Conv (8 channels) → Resize to [batch and channels of its input, …size] → maximum → product. */
function resizing(size: readonly [number, number], mode: string, height: number | string = 5): Model {
  const build = new GraphBuilder('resizing');
  const image = build.input('image', 'float32', ['N', 2, height, 6]);
  const x = build.op('Conv', [image, build.constant(tensor([8, 2, 1, 1]))], {}, { outputs: ['channels'] });
  const shape = build.op('Shape', [x]);
  const front = build.op('Slice', [shape, build.ints([0]), build.ints([2]), build.ints([0])]);
  build.op('Concat', [front, build.ints(size)], { axis: 0 }, { outputs: ['sizes'] });
  const larger = build.op('Resize', [x, undefined, undefined, 'sizes'], { mode });
  const flat = build.op('Flatten', [build.op('GlobalMaxPool', [larger])]);
  build.output(build.op('MatMul', [flat, build.constant(tensor([8, 3]))]), 'float32', ['N', 3]);
  return modelOf(build.finish());
}

function tensor(shape: readonly number[]): Tensor {
  return float32Tensor(
    shape,
    Float32Array.from({ length: elementCount(shape) }, () => random.normal()),
  );
}

async function run(model: Model, image: Tensor): Promise<number[]> {
  const session = await Session.create(writeModel(model));
  try {
    return [...floatsOf(Object.values(await session.run({ image }))[0]!)];
  } finally {
    await session.release();
  }
}
