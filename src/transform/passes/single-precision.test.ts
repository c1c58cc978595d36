import { expect, test } from 'vitest';
import { halfTensor, withoutHalf } from '../../base/half.ts';
import { elementsOf, floatsOf, type Tensor, tensorOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { checkModel } from '../../graph/check.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { inferTypes } from '../../ops/infer.ts';
import { spread } from '../../ops/op-cases.fixture.ts';
import { randomNetwork } from '../prune/networks.fixture.ts';
import { foldConstants } from './fold-constants.ts';
import { halfPrecision } from './half-precision.fixture.ts';
import { removeIdleNodes } from './remove-idle-nodes.ts';
import { singlePrecision, singlePrecisionInside } from './single-precision.ts';

const float = foldConstants(randomNetwork(['conv', 'residual', 'bn-relu'], 'gap', 3));
const half = halfPrecision(float);
const image = spread([2, 2, 8, 8], 4, 0, 1);

test('the network computes the same in float32, without a 16-bit float left in it', async () => {
  const single = singlePrecision(half);
  checkModel(single);
  const types = [...inferTypes(single).types.values()];
  expect(types.filter(({ dtype }) => dtype === 'float16')).toEqual([]);
  expectClose(await run(single, image), await run(float, image));
});

test('inside, inputs and outputs keep their types, and doing it again changes nothing', async () => {
  const inside = singlePrecisionInside(half);
  checkModel(inside);
  expect(inside.graph.inputs).toEqual(half.graph.inputs);
  expect(inside.graph.outputs).toEqual(half.graph.outputs);
  expect(singlePrecisionInside(inside)).toBe(inside);
  const answer = await run(inside, halfTensor('float16', image.shape, floatsOf(image)));
  expect(answer.dtype).toBe('float16');
  expectClose(answer, await run(float, image));
});

test('float32 networks come back as they are', () => {
  expect(singlePrecision(float)).toBe(float);
  expect(singlePrecisionInside(float)).toBe(float);
});

test('conversions and what subgraphs store are in float32 too; a Cast to the type that is there can be left out', async () => {
  const b = new GraphBuilder('mixed');
  b.op('Cast', [b.input('image', 'float32', ['N', 2])], { to: 10 }, { outputs: ['low'] });
  const branch = (value: number) => {
    const inner = new GraphBuilder('branch');
    const factor = inner.op('Constant', [], { value: halfTensor('float16', [], [value]) });
    inner.output(inner.op('Mul', ['low', factor]), 'float16');
    return { kind: 'graph', value: inner.finish() } as const;
  };
  const condition = b.input('condition', 'bool', []);
  const y = b.op('If', [condition], { then_branch: branch(2), else_branch: branch(3) });
  b.output(b.op('Cast', [y], { to: 1 }, { outputs: ['y'] }), 'float32');
  const single = singlePrecision(modelOf(b.finish()));
  for (const [value, factor] of [
    [1, 2],
    [0, 3],
  ] as const) {
    const session = await Session.create(writeModel(single), { optimization: 'disabled' });
    const truth = tensorOf('bool', [], Uint8Array.of(value));
    const { y } = await session.run({ image: spread([1, 2], 1, 0, 1), condition: truth });
    await session.release();
    // 1/3 has no binary16: had a conversion stayed, the product would be rounded.
    expect(Array.from(floatsOf(y!))).toEqual(
      Array.from(floatsOf(spread([1, 2], 1, 0, 1)), (v) => Math.fround(v * factor)),
    );
  }

  const c = new GraphBuilder('idle');
  const cast = c.op('Cast', [c.input('image', 'float32', ['N', 2])], { to: 1 });
  c.output(c.op('Cast', [c.op('Relu', [cast])], { to: 11 }), 'float64');
  const { nodes } = removeIdleNodes(modelOf(c.finish())).graph;
  expect(nodes.map(({ opType, inputs }) => [opType, inputs[0]])).toEqual([
    ['Relu', 'image'],
    ['Cast', nodes[0]!.outputs[0]],
  ]);
});

function expectClose(actual: Tensor, expected: Tensor): void {
  const [a, b] = [actual, expected].map((tensor) => floatsOf(withoutHalf(tensor)));
  const scale = Math.max(...b!.map(Math.abs));
  expect(scale).toBeGreaterThan(1e-3);
  expect(elementsOf(actual).length).toBe(b!.length);
  for (const [i, value] of b!.entries()) expect(Math.abs(a![i]! - value) / scale).toBeLessThan(0.02);
}

async function run(model: Model, input: Tensor): Promise<Tensor> {
  const session = await Session.create(writeModel(model));
  try {
    const { inputs, outputs } = model.graph;
    return (await session.run({ [inputs[0]!.name]: input }))[outputs[0]!.name]!;
  } finally {
    await session.release();
  }
}
