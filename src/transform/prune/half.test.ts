import { expect, test } from 'vitest';
import { elementCount, float32Tensor, floatsOf, type Tensor, tensorOf } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Model } from '../../graph/model.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { spread } from '../../ops/op-cases.fixture.ts';
import { prune } from './prune.ts';

/** Rounds to few enough bits for a half, so that both networks have the same weights. */
function rounded(shape: readonly number[], seed: number): Tensor {
  return float32Tensor(
    shape,
    floatsOf(spread(shape, seed, -2, 2)).map((value) => Math.round(value * 64) / 64 || 1 / 64),
  );
}

/** IEEE 754 binary16 of numbers that have a normal one. */
function toHalf(tensor: Tensor): Tensor {
  const bits = Uint16Array.from(floatsOf(tensor), (value) => {
    const exponent = Math.floor(Math.log2(Math.abs(value)));
    const fraction = (Math.abs(value) / 2 ** exponent - 1) * 1024;
    return (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | fraction;
  });
  return tensorOf('float16', tensor.shape, bits);
}

/** An image in float32 through layers in the given type. */
function network(dtype: 'float16' | 'float32'): Model {
  const b = new GraphBuilder('half');
  const stored = (name: string, shape: readonly number[], seed: number) =>
    b.initializer(name, dtype === 'float16' ? toHalf(rounded(shape, seed)) : rounded(shape, seed));
  const cast = (value: string, to: number) => (dtype === 'float16' ? b.op('Cast', [value], { to }) : value);
  const x = cast(b.input('image', 'float32', ['N', 2, 5, 5]), 10);
  const first = b.op('Relu', [b.op('Conv', [x, stored('w', [8, 2, 3, 3], 1), stored('b', [8], 2)])]);
  const second = b.op('Conv', [first, stored('v', [4, 8, 3, 3], 3)]);
  b.output(b.op('Identity', [cast(second, 1)], {}, { outputs: ['y'] }), 'float32');
  return modelOf(b.finish());
}

test.each(['l1', 'l2', 'fpgm'] as const)(
  'weights in half precision are pruned as in single, by %s',
  async (criterion) => {
    const [half, single] = (['float16', 'float32'] as const).map(
      (dtype) => prune(network(dtype), { ratio: 0.5, align: 1, criterion }).model,
    );
    for (const name of ['w', 'b', 'v']) {
      const [a, b] = [half, single].map((model) => model!.graph.initializers.get(name)!);
      expect(a).toEqual(toHalf(b!));
    }
    const image = spread([1, 2, 5, 5], 4, -1, 1);
    const [actual, expected] = [await run(half!, image), await run(single!, image)];
    const scale = Math.max(...expected.map(Math.abs));
    for (const [i, value] of expected.entries())
      expect(Math.abs(actual[i]! - value) / scale).toBeLessThan(0.01);
  },
);

async function run(model: Model, image: Tensor): Promise<Float32Array> {
  const session = await Session.create(writeModel(model));
  try {
    const { y } = await session.run({ image });
    expect(elementCount(y!.shape)).toBe(4);
    return floatsOf(y!);
  } finally {
    await session.release();
  }
}
