import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import {
  float32Tensor,
  floatsOf,
  int64Tensor,
  numbersOf,
  scalarTensor,
  type Tensor,
} from '../../base/tensor.ts';
import { Session } from '../../engine/session.ts';
import { float, floats } from '../../graph/attributes.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import type { Graph, Model } from '../../graph/model.ts';
import { readModel } from '../../graph/onnx/read.ts';
import { writeModel } from '../../graph/onnx/write.ts';
import { countParameters } from '../../ops/count.ts';
import { inferTypes } from '../../ops/infer.ts';
import { spread } from '../../ops/op-cases.fixture.ts';
import { propagateLabels } from '../prune/labels.ts';
import { maskChannels } from '../prune/mask.ts';
import { fillWeights, inputsFor } from '../prune/networks.fixture.ts';
import { removeChannels } from '../prune/remove-channels.ts';
import { foldConstants } from './fold-constants.ts';

/** Folding changes no arithmetic; what differs is what the engine fuses, which rounds in another order. */
const TOLERANCE = 1e-5;

const opTypes = (model: Model) => model.graph.nodes.map((node) => node.opType);

describe('constants', () => {
  test('of every form of numbers become initialisers', () => {
    const b = new GraphBuilder('constants');
    const x = b.input('x', 'float32', ['N', 2]);
    const forms: Record<string, Parameters<GraphBuilder['op']>[2]> = {
      tensor: { value: float32Tensor([2], [1, 2]) },
      float: { value_float: float(1.5) },
      floats: { value_floats: floats([3, 4]) },
      int: { value_int: 7 },
      ints: { value_ints: [1, 2] },
    };
    const parts = Object.entries(forms).map(([name, attributes]) => {
      const constant = b.op('Constant', [], attributes, { outputs: [name] });
      return name.startsWith('int') ? b.op('Cast', [constant], { to: 1 }) : constant;
    });
    const sum = parts.reduce((total, part) => b.op('Add', [total, part]), x);
    b.output(sum, 'float32');
    const folded = foldConstants(modelOf(b.finish()));
    expect(new Set(opTypes(folded))).toEqual(new Set(['Add']));
    expect(folded.graph.initializers.get('tensor')).toEqual(float32Tensor([2], [1, 2]));
    expect(folded.graph.initializers.get('float')).toEqual(scalarTensor(1.5));
  });

  test('of strings stay nodes', () => {
    const b = new GraphBuilder('strings');
    b.input('x', 'float32', [1]);
    b.output(b.op('Constant', [], { value_string: 'label' }), 'string');
    expect(opTypes(foldConstants(modelOf(b.finish())))).toEqual(['Constant']);
  });

  test('that are re-arranged or computed with become the weights that the engine would see', async () => {
    const b = new GraphBuilder('weights');
    const x = b.input('x', 'float32', ['N', 6]);
    const stored = b.constant(spread([4, 6], 1, -1, 1), 'stored');
    const transposed = b.op('Transpose', [stored], { perm: [1, 0] });
    const scaled = b.op('Mul', [transposed, b.constant(spread([6, 1], 2, 0.5, 1.5))]);
    const table = b.op('Gather', [scaled, b.constant(int64Tensor([5, 0, 1, 2, 3, 4]))], { axis: 0 });
    const filled = b.op('ConstantOfShape', [b.ints([4])], { value: float32Tensor([1], [0.25]) });
    const tiled = b.op('Tile', [b.op('Expand', [filled, b.ints([1, 4])]), b.ints([1, 1])]);
    b.output(b.op('Add', [b.op('MatMul', [x, table]), tiled]), 'float32');
    const model = modelOf(b.finish());
    const folded = foldConstants(model);
    expect(opTypes(folded)).toEqual(['MatMul', 'Add']);
    expect(folded.graph.initializers.size).toBe(2);
    expect(await difference(folded, model, { x: spread([3, 6], 3, -1, 1) })).toBe(0);
  });
});

test('amounts of padding that are turned around become constant, as other vectors that are cut from data', async () => {
  const b = new GraphBuilder('padding');
  const x = b.input('x', 'float32', ['N', 2, 3, 4]);
  // [left, right, top, bottom] and zeros for the other axes, from the last axis to the first: what PyTorch writes.
  const zeros = b.op('ConstantOfShape', [b.ints([4])], { value: int64Tensor([0]) });
  const pairs = b.op('Reshape', [
    b.op('Concat', [b.ints([1, 0, 2, 0]), zeros], { axis: 0 }),
    b.ints([-1, 2]),
  ]);
  const first = b.constant(int64Tensor([-Number.MAX_SAFE_INTEGER]));
  const turned = b.op('Slice', [pairs, b.ints([-1]), first, b.ints([0]), b.ints([-1])]);
  const amounts = b.op('Cast', [b.op('Reshape', [b.op('Transpose', [turned]), b.ints([-1])])], { to: 7 });
  const padded = b.op('Pad', [x, amounts]);
  const kernel = spread([2, 3, 4], 3, -1, 1);
  const part = b.op('Slice', [
    b.constant(kernel),
    b.ints([2, -3]),
    b.ints([0, 9]),
    b.ints([1, 2]),
    b.ints([-1, 2]),
  ]);
  b.output(b.op('Add', [padded, b.op('ReduceSum', [part])]), 'float32');
  const model = modelOf(b.finish());
  const folded = foldConstants(model);
  expect(opTypes(folded)).toEqual(['Pad', 'Add']);
  const pads = folded.graph.initializers.get(folded.graph.nodes[0]!.inputs[1]!)!;
  expect(numbersOf(pads)).toEqual([0, 0, 2, 1, 0, 0, 0, 0]);
  expect(await difference(folded, model, { x: spread([2, 2, 3, 4], 4, -1, 1) })).toBe(0);
});

test('of an If whose condition is known the branch that is taken remains', async () => {
  for (const sizes of [
    [2, 1, 3],
    [2, 4, 3],
  ]) {
    const b = new GraphBuilder('choice');
    const x = b.input('x', 'float32', sizes);
    const size = b.op('Gather', [b.op('Shape', [x]), b.constant(int64Tensor([1], []))]);
    const condition = b.op('Equal', [size, b.constant(int64Tensor([1], []))]);
    // Both branches call their value the same; one reads an initialiser of its own.
    const dropping = new GraphBuilder('then');
    dropping.op('Squeeze', ['outer', dropping.initializer('axes', int64Tensor([1]))], {}, { outputs: ['y'] });
    dropping.output('y', 'float32');
    const keeping = new GraphBuilder('else');
    keeping.output(keeping.op('Identity', ['outer'], {}, { outputs: ['y'] }), 'float32');
    b.op('Neg', [x], {}, { outputs: ['outer'] });
    const chosen = b.op('If', [condition], {
      then_branch: { kind: 'graph', value: dropping.finish() },
      else_branch: { kind: 'graph', value: keeping.finish() },
    });
    b.output(b.op('Relu', [chosen]), 'float32');
    const folded = foldConstants(modelOf(b.finish()));
    expect(opTypes(folded)).toEqual(sizes[1] === 1 ? ['Neg', 'Squeeze', 'Relu'] : ['Neg', 'Relu']);
    // The network as it was cannot load where the branch that is not taken does not fit.
    const plain = new GraphBuilder('plain');
    const outer = plain.op('Neg', [plain.input('x', 'float32', sizes)]);
    const taken = sizes[1] === 1 ? plain.op('Squeeze', [outer, plain.ints([1])]) : outer;
    plain.output(plain.op('Relu', [taken], {}, { outputs: [folded.graph.outputs[0]!.name] }), 'float32');
    expect(await difference(folded, modelOf(plain.finish()), { x: spread(sizes, 4, -1, 1) })).toBe(0);
  }
});

describe('nodes that hand on', () => {
  test('are bypassed, except where they make an output of the graph', async () => {
    const b = new GraphBuilder('identities');
    const x = b.input('x', 'float32', ['N', 2]);
    const first = b.op('Identity', [b.op('Identity', [x])]);
    const dropped = b.op('Dropout', [b.op('Relu', [first]), b.scalar(0.5)]);
    b.output(b.op('Identity', [dropped], {}, { outputs: ['y'] }), 'float32');
    const model = modelOf(b.finish());
    const folded = foldConstants(model);
    expect(opTypes(folded)).toEqual(['Relu', 'Identity']);
    expect(folded.graph.initializers.size).toBe(0);
    expect(await difference(folded, model, { x: spread([3, 2], 3, -1, 1) })).toBe(0);
  });

  test('leave a weight that two nodes share one weight', () => {
    const b = new GraphBuilder('tied');
    const x = b.input('x', 'float32', ['N', 2]);
    const w = b.initializer('w', spread([2, 2], 1, -1, 1));
    const h = b.op('MatMul', [x, w]);
    b.output(b.op('MatMul', [h, b.op('Identity', [w])]), 'float32');
    expect([...foldConstants(modelOf(b.finish())).graph.initializers.keys()]).toEqual(['w']);
  });

  test('stay where Dropout drops, or somebody reads its mask', () => {
    const b = new GraphBuilder('dropouts');
    const x = b.input('x', 'float32', ['N', 2]);
    const isTraining = b.input('is_training', 'bool', []);
    const [, mask] = b.ops('Dropout', [x], {}, { outputs: 2 });
    b.output(b.op('Dropout', [x, b.scalar(0.5), isTraining]), 'float32');
    b.output(mask!, 'bool');
    expect(opTypes(foldConstants(modelOf(b.finish())))).toEqual(['Dropout', 'Dropout']);
  });

  test('stay where a subgraph reads them, and subgraphs still see what was folded', async () => {
    const model = conditional();
    const folded = foldConstants(model);
    expect(opTypes(folded)).toEqual(['Identity', 'If']);
    expect(folded.graph.initializers.has('offset')).toBe(true);
    for (const flag of [0, 1]) {
      const condition: Tensor = { dtype: 'bool', shape: [], bytes: Uint8Array.of(flag) };
      expect(await difference(folded, model, { x: spread([1, 2], 3, -1, 1), condition })).toBe(0);
    }
  });
});

describe('a batch of any size', () => {
  test('is never folded, and computed shapes around it become constants', async () => {
    const b = new GraphBuilder('attention');
    const x = b.input('x', 'float32', ['N', 4, 6]);
    const batch = b.op('Gather', [b.op('Shape', [x]), b.constant(int64Tensor([0], []))]);
    const vector = b.op('Unsqueeze', [batch, b.ints([0])]);
    const heads = b.op('Concat', [vector, b.ints([-1]), b.ints([2]), b.ints([3])], { axis: 0 });
    const merged = b.op('Concat', [vector, b.ints([4]), b.ints([6])], { axis: 0 });
    b.output(b.op('Reshape', [b.op('Relu', [b.op('Reshape', [x, heads])]), merged]), 'float32');
    const model = modelOf(b.finish());
    const folded = foldConstants(model);
    expect(opTypes(folded)).toEqual(['Reshape', 'Relu', 'Reshape']);
    for (const size of [1, 3])
      expect(await difference(folded, model, { x: spread([size, 4, 6], 3, -1, 1) })).toBe(0);
  });

  test.each(['expanded', 'added to zeros', 'times ones'])('repeats a class token that is %s', async (how) => {
    const b = new GraphBuilder('token');
    const x = b.input('x', 'float32', ['N', 4, 6]);
    const batch = b.op('Slice', [b.op('Shape', [x]), b.ints([0]), b.ints([1])]);
    const target = b.op('Concat', [batch, b.ints([1]), b.ints([6])], { axis: 0 });
    const token = b.initializer('token', spread([1, 1, 6], 1, -1, 1));
    const value = (fill: number) => ({ value: float32Tensor([1], [fill]) });
    const repeated =
      how === 'expanded'
        ? b.op('Expand', [token, target])
        : how === 'added to zeros'
          ? b.op('Add', [b.op('ConstantOfShape', [target], value(0)), token])
          : b.op('Mul', [token, b.op('ConstantOfShape', [target], value(1))]);
    b.output(b.op('Concat', [repeated, x], { axis: 1 }), 'float32');
    const model = modelOf(b.finish());
    const folded = foldConstants(model);
    expect(opTypes(folded)).not.toContain('ConstantOfShape');
    const expand = folded.graph.nodes.find((node) => node.opType === 'Expand')!;
    // The channels' own size is no longer stated, so that they can be pruned.
    expect(inferTypes(folded).partials.get(expand.inputs[1]!)?.elements).toEqual(['N', 1, 1]);
    for (const size of [1, 3])
      expect(await difference(folded, model, { x: spread([size, 4, 6], 3, -1, 1) })).toBe(0);
  });

  test('is asked of the input, so that channels do not enter its arithmetic', async () => {
    const b = new GraphBuilder('inner batch');
    const x = b.input('x', 'float32', ['N', 3, 4, 4]);
    const w = b.initializer('w', spread([6, 3, 1, 1], 1, -1, 1));
    const h = b.op('Conv', [x, w]);
    // [N, 1, 1] out of the sizes of what the convolution makes.
    const batch = b.op('Slice', [b.op('Shape', [h]), b.ints([0]), b.ints([1])]);
    const repeats = b.op('Concat', [batch, b.ints([1]), b.ints([1])], { axis: 0 });
    const tokens = b.op('Tile', [b.initializer('token', spread([1, 1, 6], 2, -1, 1)), repeats]);
    const rows = b.op('Transpose', [b.op('Reshape', [h, b.ints([0, 6, 16])])], { perm: [0, 2, 1] });
    const all = b.op('Concat', [tokens, rows], { axis: 1 });
    b.output(b.op('MatMul', [all, b.initializer('head', spread([6, 2], 3, -1, 1))]), 'float32');
    const model = modelOf(b.finish());
    const folded = foldConstants(model);
    expect(folded.graph.nodes.find((node) => node.opType === 'Shape')!.inputs).toEqual(['x']);
    const feeds = { x: spread([3, 3, 4, 4], 4, -1, 1) };
    expect(await difference(folded, model, feeds)).toBe(0);

    // All six channels can go, of the convolution, the token and the head at once.
    const propagation = propagateLabels(folded);
    const free = [...new Set(propagation.roots)].filter((root) => !propagation.frozen.has(root));
    expect(free).toHaveLength(6);
    const pruned = removeChannels(propagation, [free[1]!, free[4]!]);
    expect(pruned.graph.initializers.get('token')!.shape).toEqual([1, 1, 4]);
    expect(await difference(pruned, maskChannels(propagation, [free[1]!, free[4]!]), feeds)).toBeLessThan(
      TOLERANCE,
    );
  });

  test('joins a shape that two unknown sizes share of its elements', async () => {
    const b = new GraphBuilder('open');
    const x = b.input('x', 'float32', ['N', 4, 'W']);
    const sizes = b.op('Shape', [x]);
    const swapped = b.op('Gather', [sizes, b.constant(int64Tensor([2, 0, 1]))]);
    b.output(b.op('Reshape', [x, swapped]), 'float32');
    const model = modelOf(b.finish());
    const folded = foldConstants(model);
    expect(opTypes(folded)).toEqual(['Shape', 'Gather', 'Gather', 'Concat', 'Reshape']);
    expect(foldConstants(folded).graph).toEqual(folded.graph);
    const feeds = {
      x: float32Tensor(
        [2, 4, 3],
        Float32Array.from({ length: 24 }, (_, i) => i),
      ),
    };
    expect(await difference(folded, model, feeds)).toBe(0);
  });
});

const shared = process.env.BONSAI_SHARED ?? '../shared';
const files = ['graphs', 'models'].flatMap((folder) =>
  existsSync(join(shared, folder)) ? readdirSync(join(shared, folder)).map((name) => join(folder, name)) : [],
);

/** Larger networks take seconds to fill and run; they have the nodes of the smaller ones. */
const MAX_COMPARED_PARAMETERS = 2e6;

describe.skipIf(files.length === 0)("other people's networks", () => {
  test.each(files)('compute the same, and every shape in them is known: %s', async (file) => {
    const bytes = readFileSync(join(shared, file));
    const model = readModel(file.endsWith('.gz') ? gunzipSync(bytes) : bytes);
    const folded = foldConstants(model);
    const left = opTypes(folded);
    for (const type of ['Constant', 'ConstantOfShape', 'Dropout']) expect(left).not.toContain(type);
    // The size of the batch is asked for only where something is repeated over it.
    expect(left.includes('Shape')).toBe(left.includes('Expand'));
    const { types } = inferTypes(bare(folded));
    for (const node of folded.graph.nodes) {
      for (const output of node.outputs) {
        if (output !== '') expect(types.get(output)?.shape, output).toBeDefined();
      }
    }
    if (countParameters(folded) > MAX_COMPARED_PARAMETERS) return;
    const filled = fillWeights(model, 1);
    expect(await difference(foldConstants(filled), filled, inputsFor(model, 2))).toBeLessThan(TOLERANCE);
  });
});

/** Without the types that the file states, so that only what is inferred counts. */
function bare(model: Model): Model {
  const outputs = model.graph.outputs.map(({ name }) => ({ name }));
  return { ...model, graph: { ...model.graph, outputs, valueInfos: new Map() } };
}

/** An If whose branches read an Identity's output, a Constant's, and the input. */
function conditional(): Model {
  const branch = (name: string, op: string): Graph => ({
    ...new GraphBuilder(name).finish(),
    nodes: [
      {
        name,
        opType: op,
        domain: '',
        inputs: ['same', 'offset'],
        outputs: [`${name}/y`],
        attributes: new Map(),
        docString: '',
      },
    ],
    outputs: [{ name: `${name}/y`, type: { dtype: 'float32' } }],
  });
  const b = new GraphBuilder('conditional');
  b.input('condition', 'bool', []);
  b.input('x', 'float32', [1, 2]);
  b.op('Identity', ['x'], {}, { outputs: ['same'] });
  b.op('Constant', [], { value_floats: floats([1, 2]) }, { outputs: ['offset'] });
  const branches = {
    then_branch: { kind: 'graph', value: branch('then', 'Add') },
    else_branch: { kind: 'graph', value: branch('else', 'Mul') },
  } as const;
  b.output(b.op('If', ['condition'], branches), 'float32');
  return modelOf(b.finish());
}

/** The largest difference of any output, relative to that output's largest value. */
async function difference(
  actual: Model,
  expected: Model,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<number> {
  const [a, b] = [await run(actual, feeds), await run(expected, feeds)];
  expect(Object.keys(a)).toEqual(Object.keys(b));
  let worst = 0;
  for (const [name, tensor] of Object.entries(b)) {
    expect(a[name]!.shape).toEqual(tensor.shape);
    const [left, right] = [floatsOf(a[name]!), floatsOf(tensor)];
    const scale = right.reduce((largest, value) => Math.max(largest, Math.abs(value)), Number.MIN_VALUE);
    for (const [i, value] of right.entries()) worst = Math.max(worst, Math.abs(left[i]! - value) / scale);
  }
  return worst;
}

async function run(model: Model, feeds: Readonly<Record<string, Tensor>>): Promise<Record<string, Tensor>> {
  const session = await Session.create(writeModel(model));
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}

test('weights that are computed from stored ones are stored, as the engine computes them', async () => {
  const b = new GraphBuilder('standardised');
  const x = b.input('x', 'float32', ['N', 3, 5, 5]);
  const mean = (value: string) => b.op('ReduceMean', [value], { axes: [1, 2, 3] });
  // Weight standardisation: (w - mean) / (deviation + ε) of each filter.
  const w = b.constant(spread([4, 3, 3, 3], 1, -1, 1));
  const centred = b.op('Sub', [w, mean(w)]);
  const deviation = b.op('Sqrt', [mean(b.op('Mul', [centred, centred]))]);
  const standard = b.op('Div', [centred, b.op('Add', [deviation, b.scalar(1e-5)])]);
  // The same by BatchNormalization, as timm has it.
  const v = b.constant(spread([1, 4, 36], 2, -1, 1));
  const vectors = [1, 0, 0, 1].map((value) =>
    b.constant(float32Tensor([4], new Float32Array(4).fill(value))),
  );
  const [normal] = b.ops('BatchNormalization', [v, ...vectors], { training_mode: 1 }, { outputs: 3 });
  // A weight by its norm, and by its largest singular value.
  const u = b.constant(spread([4, 4, 1, 1], 3, -1, 1));
  const norm = b.op('ReduceL2', [u], { axes: [1, 2, 3] });
  const rows = b.op('Flatten', [u]);
  const sigma = b.op('MatMul', [
    b.constant(spread([4], 4, 0, 1)),
    b.op('MatMul', [rows, b.constant(spread([4], 5, 0, 1))]),
  ]);
  let y = b.op('Conv', [x, standard]);
  y = b.op('Conv', [y, b.op('Reshape', [normal!, b.ints([4, 4, 3, 3])])]);
  y = b.op('Conv', [y, b.op('Div', [b.op('Div', [u, norm]), sigma])]);
  b.output(y, 'float32');
  const model = modelOf(b.finish());
  const folded = foldConstants(model);
  expect(opTypes(folded)).toEqual(['Conv', 'Conv', 'Conv']);
  expect(await difference(folded, model, inputsFor(model, 1))).toBeLessThan(TOLERANCE);
});
