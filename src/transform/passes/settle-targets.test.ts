import { describe, expect, test } from 'vitest';
import { elementCount, float32Tensor, floatsOf, int64Tensor, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { checkModel } from '../../graph/check.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { spread } from '../../ops/op-cases.fixture.ts';
import { maskEquivalence } from '../../port/verify/mask-equivalence.ts';
import { dependencyGroups } from '../prune/groups.ts';
import { foldConstants } from './fold-constants.ts';
import { settleTargets } from './settle-targets.ts';

const [TOKENS, WIDTH] = [3, 6];

describe('targets that the graph computes from the batch', () => {
  test('of a Reshape become constants', async () => {
    const model = tokensModel(({ build, size, channels }) => {
      const target = build.op('Concat', [size, build.constant(int64Tensor([-1, 2, 3]))], { axis: 0 });
      return build.op('Reshape', [channels, target]);
    });
    const settled = await expectSame(model);
    const reshape = settled.graph.nodes.find((node) => node.opType === 'Reshape')!;
    expect(settled.graph.initializers.get(reshape.inputs[1]!)).toEqual(int64Tensor([0, -1, 2, 3]));
    expect(foldConstants(model).graph.nodes.map((node) => node.opType)).not.toContain('Shape');
  });

  test.each(['Expand', 'zeros and Add'] as const)(
    'of a class token (%s) lose its width, which can then be pruned',
    async (form) => {
      const model = tokensModel(({ build, size, channels }) => {
        const target = build.op('Concat', [size, build.constant(int64Tensor([1, WIDTH]))], { axis: 0 });
        const token = build.constant(spread(form === 'Expand' ? [1, 1, WIDTH] : [WIDTH], 4, -1, 1));
        const tokens =
          form === 'Expand'
            ? build.op('Expand', [token, target])
            : build.op('Add', [build.op('ConstantOfShape', [target]), token]);
        return build.op('Concat', [tokens, channels], { axis: 1 });
      });
      const settled = await expectSame(model);
      const { groups, frozen } = dependencyGroups(foldConstants(model));
      expect(groups.map((group) => group.channels)).toEqual([WIDTH]);
      expect(frozen.map(({ reason }) => reason)).toEqual(['y: is an output of the graph']);
      const { maxRelativeError } = await maskEquivalence(foldConstants(model), {
        groups: 4,
        inputs: 2,
        seed: 1,
      });
      expect(maxRelativeError).toBeLessThan(1e-4);
      expect(settled.graph.nodes.filter((node) => node.opType === 'Expand')).toHaveLength(1);
    },
  );

  test('stay where two sizes cannot be told', () => {
    const build = new GraphBuilder('unknown');
    const x = build.input('x', 'float32', [null, null, WIDTH]);
    const sizes = build.op('Gather', [build.op('Shape', [x]), build.constant(int64Tensor([1, 0]))]);
    const target = build.op('Concat', [sizes, build.constant(int64Tensor([2, 3]))], { axis: 0 });
    build.output(build.op('Reshape', [x, target]), 'float32');
    const model = modelOf(build.finish());
    expect(settleTargets(model).graph.nodes).toEqual(model.graph.nodes);
  });
});

/** [N, 3, 4] → product → what is tested, with the batch's size as the graph computes it → product. */
function tokensModel(middle: (at: { build: GraphBuilder; size: string; channels: string }) => string): Model {
  const build = new GraphBuilder('tokens');
  const x = build.input('x', 'float32', ['N', TOKENS, 4]);
  const size = build.op('Gather', [build.op('Shape', [x]), build.constant(int64Tensor([0]))], { axis: 0 });
  const channels = build.op('MatMul', [x, build.constant(spread([4, WIDTH], 1, -1, 1))]);
  const flat = build.op('Reshape', [
    middle({ build, size, channels }),
    build.constant(int64Tensor([0, -1, WIDTH])),
  ]);
  const weight = build.constant(spread([WIDTH, 2], 2, -1, 1));
  build.output(build.ops('MatMul', [flat, weight], {}, { outputs: ['y'], name: 'y' })[0]!, 'float32');
  return modelOf(build.finish());
}

/** The settled network computes the same for several batches. */
async function expectSame(model: Model): Promise<Model> {
  const settled = settleTargets(model);
  checkModel(settled);
  for (const batch of [1, 3]) {
    const x = spread([batch, TOKENS, 4], 9, -1, 1);
    const [before, after] = [await outputOf(model, x), await outputOf(settled, x)];
    expect(after.shape).toEqual(before.shape);
    expect(floatsOf(after)).toEqual(floatsOf(before));
    expect(elementCount(before.shape)).toBeGreaterThan(1);
  }
  return settled;
}

async function outputOf(model: Model, x: Tensor): Promise<Tensor> {
  const session = await Session.create(writeModel(model));
  try {
    return (await session.run({ x })).y ?? float32Tensor([0], []);
  } finally {
    await session.release();
  }
}
