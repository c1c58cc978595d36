import { expect, test } from 'vitest';
import { seededRandom } from '../../base/random.ts';
import { floatsOf, type Tensor } from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { inputsFor, randomNetwork } from '../../transform/prune/networks.fixture.ts';
import { extractSegments, segmentsOf } from './segments.ts';

test('run one after the other, the segments compute what the network computes', async () => {
  const layers = [
    'projection',
    'bn-relu',
    'residual',
    'concat',
    'depthwise',
    'gate',
    'pool',
    'split',
  ] as const;
  const model = randomNetwork(layers, 'flatten', 9);
  const feeds = inputsFor(model, 3);
  const whole = await Session.create(writeModel(model));
  const expected = await whole.run(feeds);
  await whole.release();

  const segments = extractSegments(model, { image: feeds.image!.shape });
  expect(segments.length).toBeLessThan(model.graph.nodes.length);
  expect(segments.flatMap(({ outputs }) => outputs).length).toBe(model.graph.nodes.length);
  const values: Record<string, Tensor> = { ...feeds };
  // An addition belongs to the branch that it is fused with, and may read from one that begins later.
  const waiting = segments.map(({ model: part }) => part);
  while (waiting.length > 0) {
    const next = waiting.findIndex(({ graph }) =>
      graph.inputs.every(({ name }) => values[name] !== undefined),
    );
    const [part] = waiting.splice(next, 1);
    const session = await Session.create(writeModel(part!));
    const inputs = session.inputNames.map((name) => [name, values[name]!]);
    Object.assign(values, await session.run(Object.fromEntries(inputs)));
    await session.release();
  }
  for (const [name, tensor] of Object.entries(expected)) {
    const [found, wanted] = [floatsOf(values[name]!), floatsOf(tensor)];
    for (const [i, value] of wanted.entries())
      expect(Math.abs(found[i]! - value)).toBeLessThan(1e-4 * Math.max(1, Math.abs(value)));
  }
});

/** Convolutions one behind the other, each with a Relu, of the given widths. */
function chain(widths: readonly number[], names: string) {
  const random = seededRandom(widths.length);
  const build = new GraphBuilder('chain');
  let x = build.input(names, 'float32', ['N', widths[0]!, 6, 6]);
  for (const [i, width] of widths.slice(1).entries()) {
    const size = width * widths[i]! * 9;
    const data = Float32Array.from({ length: size }, () => random.normal());
    const w = build.initializer(`${names}${i}`, {
      dtype: 'float32',
      shape: [width, widths[i]!, 3, 3],
      bytes: new Uint8Array(data.buffer),
    });
    x = build.op('Relu', [build.op('Conv', [x, w], { kernel_shape: [3, 3], pads: [1, 1, 1, 1] })]);
  }
  build.output(x, 'float32');
  return modelOf(build.finish());
}

test('a convolution and what the engine fuses with it are one segment', () => {
  expect(segmentsOf(chain([3, 8, 8], 'a').graph)).toEqual([
    [0, 1],
    [2, 3],
  ]);
});

test('segments of the same work have the same signature, whatever their names and weights', () => {
  const [first, second, third] = extractSegments(chain([8, 8, 8, 16], 'a')).map(({ signature }) => signature);
  expect(first).toBe(second);
  expect(third).not.toBe(first);
  expect(extractSegments(chain([8, 8], 'another'))[0]!.signature).toBe(first);
  // Another size of the image is other work.
  const larger = extractSegments(chain([8, 8], 'a'), { a: [1, 8, 12, 12] });
  expect(larger[0]!.signature).not.toBe(first);
});

test('what has no known shape is left out', () => {
  const build = new GraphBuilder('open');
  const x = build.input('x', 'float32', ['N', 4]);
  const unknown = build.op('Mystery', [x], {}, { domain: 'elsewhere' });
  build.output(build.op('Relu', [unknown]), 'float32');
  const model = modelOf(build.finish(), { extraOpsets: [{ domain: 'elsewhere', version: 1 }] });
  expect(extractSegments(model)).toEqual([]);
});
