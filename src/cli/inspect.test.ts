import { expect, test } from 'vitest';
import { elementCount, float32Tensor, int64Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { withGraph } from '../graph/model.ts';
import { inspect } from '../transform/prune/inspect.ts';
import { randomNetwork } from '../transform/prune/networks.fixture.ts';
import { inspectionText, LISTED } from './inspect.ts';

test('heads of attention are told as units of several channels', () => {
  const build = new GraphBuilder('attention');
  const weight = (shape: number[]) =>
    build.constant(float32Tensor(shape, new Float32Array(elementCount(shape)).fill(0.1)));
  const x = build.input('x', 'float32', [1, 5, 8]);
  // 3 heads of width 4 from 8 features, for queries, keys and values alike.
  const heads = (perm: number[]) => {
    const split = build.op('Reshape', [build.op('MatMul', [x, weight([8, 12])]), int64(build, [1, 5, 3, 4])]);
    return build.op('Transpose', [split], { perm });
  };
  const scores = build.op('MatMul', [heads([0, 2, 1, 3]), heads([0, 2, 3, 1])]);
  const mixed = build.op('MatMul', [build.op('Softmax', [scores], { axis: -1 }), heads([0, 2, 1, 3])]);
  const merged = build.op('Reshape', [
    build.op('Transpose', [mixed], { perm: [0, 2, 1, 3] }),
    int64(build, [1, 5, 12]),
  ]);
  build.output(build.op('MatMul', [merged, weight([12, 2])]), 'float32', [1, 5, 2]);
  const text = textOf(inspect(modelOf(build.finish())));
  expect(text).toMatch(/^1\. 3 units of 4 channels each$/m);
  expect(text).toMatch(/multiplied with each other/);
});

test('long lists are cut unless all is asked for', () => {
  const inspection = inspect(randomNetwork(Array(14).fill('conv'), 'gap', 2));
  expect(inspection.nodes.length).toBeGreaterThan(LISTED.nodes);
  expect(textOf(inspection)).toMatch(/… and \d+ more nodes with [\d.]+ % \(--all lists them\)/);
  const all = textOf(inspection, true);
  expect(all).not.toMatch(/--all/);
  expect(all).toMatch(/─ slices +\d+ of "w_?\d*" \[.*\] along axis [01]/);
});

test('work is told to be that of the batch that the file fixes, or the caller', () => {
  const open = randomNetwork(['conv'], 'gap', 2);
  const [input] = open.graph.inputs;
  const sized = withGraph(open, {
    ...open.graph,
    inputs: [{ ...input!, type: { dtype: 'float32', shape: [2, ...input!.type!.shape!.slice(1)] } }],
  });
  expect(textOf(inspect(open))).toMatch(/\(MACs\) for one input$/m);
  expect(textOf(inspect(sized))).toMatch(/\(MACs\) for inputs of these sizes \(first axis: 2\)$/m);
  const shapes = { [input!.name]: [4, 2, 8, 8] };
  expect(
    inspectionText('n.onnx', inspect(open, { inputs: shapes }), { block: 8, all: false, shapes }),
  ).toMatch(/\(first axis: 4\)$/m);
});

test('the block of the machine says which widths to keep', () => {
  const inspection = inspect(randomNetwork(['conv'], 'gap', 2));
  expect(textOf(inspection)).toMatch(/blocks of 8 channels: keep multiples of 8/);
  expect(inspectionText('n.onnx', inspection, { block: 1, all: false })).toMatch(/any number of channels/);
});

function textOf(inspection: ReturnType<typeof inspect>, all = false): string {
  return inspectionText('network.onnx', inspection, { block: 8, all });
}

function int64(build: GraphBuilder, values: number[]): string {
  return build.constant(int64Tensor(values));
}
