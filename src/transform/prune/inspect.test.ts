import { describe, expect, test } from 'vitest';
import { float32Tensor, int64Tensor, tensorOf } from '../../base/tensor.ts';
import { GraphBuilder, modelOf } from '../../graph/build.ts';
import { InvalidGraphError } from '../../graph/errors.ts';
import { type Model, type Node, withGraph } from '../../graph/model.ts';
import { inspect } from './inspect.ts';
import { randomNetwork } from './networks.fixture.ts';
import { prune } from './prune.ts';

describe('inspecting', () => {
  test('tells who makes and reads the channels of a group, and what ties them', () => {
    const { groups, frozen } = inspect(randomNetwork(['residual'], 'gap', 1));
    expect(groups.map(({ producers, couplings }) => ({ producers, couplings }))).toEqual([
      { producers: ['conv', 'conv_2'], couplings: [{ node: 'add', opType: 'Add' }] },
      { producers: ['conv_1'], couplings: [] },
    ]);
    const readers = groups[0]!.members.filter(({ direction }) => direction === 'in');
    expect(readers.map(({ node, axis }) => [node, axis])).toEqual([
      ['conv_1', 1],
      ['logits', 1],
    ]);
    expect(frozen).toEqual([{ node: 'logits', reason: 'logits: is an output of the graph' }]);
  });

  test('a weight that two layers share is named as the tie', () => {
    const build = new GraphBuilder('tied');
    const image = build.input('image', 'float32', ['N', 4, 4, 4]);
    const tied = build.initializer('tied', float32Tensor([4, 4, 1, 1], new Float32Array(16).fill(0.1)));
    const x = build.op('Relu', [
      build.op('Conv', [build.op('Sigmoid', [build.op('Conv', [image, tied])]), tied]),
    ]);
    const head = build.constant(float32Tensor([2, 4, 4, 4], new Float32Array(128).fill(0.1)));
    build.output(build.op('Conv', [x, head]), 'float32', ['N', 2, 1, 1]);
    const { groups, frozen } = inspect(modelOf(build.finish()));
    // The first use reads the image, whose channels stay; so the shared kernel keeps its inputs, and with them all.
    expect(groups).toEqual([]);
    expect(frozen.map(({ reason }) => reason).join()).toMatch(/"tied"/);
  });

  test('names operators that read weights but have no rule, and what to do about quantised ones', () => {
    const build = new GraphBuilder('quantised');
    const scale = build.scalar(0.1);
    const zero = build.constant(tensorOf('int8', [], new Int8Array(1)));
    let x = build.op('QuantizeLinear', [build.input('image', 'float32', ['N', 4, 4, 4]), scale, zero]);
    for (const name of ['first', 'second']) {
      const w = build.constant(tensorOf('int8', [4, 4, 1, 1], new Int8Array(16).fill(3)));
      x = build.op('QLinearConv', [x, scale, zero, w, scale, zero, scale, zero], {}, { name });
    }
    build.output(build.op('DequantizeLinear', [x, scale, zero]), 'float32');
    const model = modelOf(build.finish());
    const reason = 'QLinearConv has no pruning rule; prune the float network and quantise after';
    expect(inspect(model).frozen).toEqual([
      { node: 'first', reason },
      { node: 'second', reason },
    ]);
    expect(() => prune(model, { ratio: 0.5 })).toThrow(
      /first \(QLinearConv has no pruning rule; prune the float/,
    );
  });

  test('names layers whose weights are inputs of the graph, as files without parameters have them', () => {
    const build = new GraphBuilder('fed');
    const image = build.input('image', 'float32', ['N', 2, 4, 4]);
    const weights = [build.input('w', 'float32', [4, 2, 3, 3]), build.input('v', 'float32', [2, 4, 3, 3])];
    const x = build.op('Relu', [build.op('Conv', [image, weights[0]], {}, { name: 'first' })]);
    build.output(build.op('Conv', [x, weights[1]], { pads: [1, 1, 1, 1] }, { name: 'second' }), 'float32');
    const model = modelOf(build.finish());
    expect(inspect(model).frozen.map(({ node, reason }) => `${node}, because ${reason}`)).toEqual([
      expect.stringMatching(/^first, because its weight "w" is an input of the graph.*with its parameters/),
      expect.stringMatching(/^second, because its weight "v" is an input/),
    ]);
    expect(() => prune(model, { ratio: 0.5 })).toThrow(/Frozen: first \(its weight "w" is an input/);
  });

  test('of a single channel it says that it stays, not what it happens to meet', () => {
    const build = new GraphBuilder('narrow');
    const image = build.input('image', 'float32', ['N', 1, 4, 4]);
    const ones = (shape: number[]) =>
      build.constant(float32Tensor(shape, new Float32Array(shape.reduce((a, b) => a * b)).fill(1)));
    const narrow = build.op('Conv', [image, ones([1, 1, 1, 1])], {}, { name: 'narrow' });
    const wide = build.op('Conv', [narrow, ones([4, 1, 1, 1])], {}, { name: 'wide' });
    const most = [narrow, wide].map((x) => build.op('ReduceMax', [x], { axes: [1] }));
    build.output(build.op('Add', most), 'float32');
    const reasons = new Map(
      inspect(modelOf(build.finish())).frozen.map(({ node, reason }) => [node, reason]),
    );
    expect(reasons.get('narrow')).toBe('there is a single channel, which has to stay');
    expect(reasons.get('wide')).toMatch(/ReduceMax reduces over these channels/);
  });

  test('lists a layer once for each reason, at however many nodes its channels meet it', () => {
    const { frozen } = inspect(
      chain((build, x) => {
        const halves = [0, 2].map((start) =>
          build.op('Slice', [x, build.ints([start]), build.ints([start + 2]), build.ints([1])]),
        );
        const unknown = halves.map((half, i) =>
          build.op('Mystery', [half], {}, { domain: 'com.example', name: `mystery${i}` }),
        );
        return build.op('Concat', unknown, { axis: 1 });
      }),
    );
    expect(frozen.filter(({ node }) => node === 'conv')).toEqual([
      { node: 'conv', reason: 'mystery0: Mystery has no coupling rule' },
    ]);
  });

  test('counts the work of each node, and the share that pruning can reach', () => {
    // Conv 1 → 4 of 3 × 3 on 4 × 4 without padding: 4·9·4 = 144 MACs; Gemm 4 → 2: 8.
    const { nodes, macs, parameters, prunable } = inspect(chain());
    expect(macs).toBe(152);
    expect(nodes.map(({ opType, macs: own }) => [opType, own])).toEqual([
      ['Conv', 144],
      ['Gemm', 8],
    ]);
    expect(nodes[0]!.share).toBeCloseTo(144 / 152, 12);
    expect(parameters).toBe(44);
    expect(prunable).toEqual({ macsRatio: 1, parametersRatio: 1 });
  });

  test('sizes that the file leaves open: all but the work is known, and all of it with sizes given', () => {
    const fixed = chain();
    const image = { name: 'image', type: { dtype: 'float32' as const, shape: ['N', 1, 'H', 'W'] } };
    const open = withGraph(fixed, { ...fixed.graph, inputs: [image] });
    const { macs, uncounted, groups } = inspect(open);
    expect([macs, groups.length]).toEqual([undefined, 1]);
    expect(uncounted).not.toBe('');
    expect(inspect(open, { inputs: { image: [1, 1, 4, 4] } }).macs).toBe(152);
  });

  test('finds what lies behind an unknown operator', () => {
    const build = new GraphBuilder('behind');
    const ones = (...shape: number[]) =>
      build.constant(float32Tensor(shape, new Float32Array(shape.reduce((a, b) => a * b)).fill(1)));
    const image = build.input('image', 'float32', ['N', 2, 4, 4]);
    const unknown = build.op('Mystery', [image], {}, { domain: 'com.example' });
    const one = build.op('Conv', [unknown, ones(4, 2, 1, 1)], {}, { name: 'conv' });
    const normal = build.op('BatchNormalization', [one, ones(4), ones(4), ones(4), ones(4)]);
    const sum = build.op('Relu', [build.op('Mul', [normal, ones(4, 1, 1)])]);
    const flat = build.op('Flatten', [build.op('GlobalAveragePool', [sum])]);
    const hidden = build.op('Gemm', [flat, ones(6, 4)], { transB: 1 }, { name: 'hidden' });
    build.output(build.op('Gemm', [build.op('Relu', [hidden]), ones(6, 2)]), 'float32');
    const extraOpsets = [{ domain: 'com.example', version: 1 }];
    const { groups } = inspect(modelOf(build.finish(), { extraOpsets }));
    expect(groups.map(({ producers, channels }) => [producers, channels])).toEqual([
      [['conv'], 4],
      [['hidden'], 6],
    ]);
  });

  test('finds nothing to prune where an unknown operator reads the channels', () => {
    const { groups, prunable, frozen } = inspect(
      chain((build, x) => build.op('Mystery', [x], {}, { domain: 'com.example' })),
    );
    expect(groups).toEqual([]);
    expect(prunable).toMatchObject({ parametersRatio: 0 });
    expect(frozen).toContainEqual({
      node: 'conv',
      reason: expect.stringContaining('Mystery has no coupling rule'),
    });
  });
});

describe('graphs that are not plain', () => {
  test.each(['If', 'Loop', 'Scan'] as const)(
    'channels that the body of %s reads stay, with the reason',
    (opType) => {
      const model = withSubgraph(opType);
      const { groups, frozen } = inspect(model);
      expect(groups.map(({ producers }) => producers)).toEqual([['free']]);
      expect(frozen).toContainEqual({
        node: 'conv',
        reason: expect.stringMatching(new RegExp(`${opType} uses "conv" inside a subgraph`)),
      });
      const { graph } = prune(model, { ratio: 0.5, align: 1 }).model;
      expect(graph.initializers.get('held')!.shape).toEqual([4, 1, 1, 1]);
      expect(graph.initializers.get('loose')!.shape).toEqual([2, 1, 1, 1]);
    },
  );

  test('a cycle, and a value that nobody makes, are errors that name the node', () => {
    const model = chain();
    const [conv, ...rest] = model.graph.nodes;
    const pooled = rest.find(({ opType }) => opType === 'GlobalAveragePool')!;
    const cyclic = [{ ...conv!, inputs: [pooled.outputs[0]!, conv!.inputs[1]!] }, ...rest];
    for (const attempt of [inspect, (broken: Model) => prune(broken, { ratio: 0.5 })]) {
      expect(() => attempt(withGraph(model, { ...model.graph, nodes: cyclic }))).toThrow(InvalidGraphError);
      expect(() => attempt(withGraph(model, { ...model.graph, nodes: cyclic }))).toThrow(/own output/);
      const dangling: Node[] = [{ ...conv!, inputs: ['nowhere', conv!.inputs[1]!] }, ...rest];
      expect(() => attempt(withGraph(model, { ...model.graph, nodes: dangling }))).toThrow(/"nowhere"/);
    }
  });
});

/** Conv (3 × 3, 4 wide) → something → global pooling → Gemm. */
function chain(middle: (build: GraphBuilder, x: string) => string = (_, x) => x): Model {
  const build = new GraphBuilder('chain');
  const image = build.input('image', 'float32', ['N', 1, 4, 4]);
  const kernel = float32Tensor([4, 1, 3, 3], new Float32Array(36).fill(1));
  const x = middle(build, build.op('Conv', [image, build.initializer('w', kernel)]));
  const flat = build.op('Flatten', [build.op('GlobalAveragePool', [x])]);
  const dense = build.constant(float32Tensor([4, 2], new Float32Array(8).fill(1)));
  build.output(build.op('Gemm', [flat, dense]), 'float32', ['N', 2]);
  return modelOf(build.finish(), { extraOpsets: [{ domain: 'com.example', version: 1 }] });
}

/** Two convolutions of an image, of which the body of the operator reads one from outside. */
function withSubgraph(opType: 'If' | 'Loop' | 'Scan'): Model {
  const build = new GraphBuilder('outer');
  const image = build.input('image', 'float32', [1, 1, 4, 4]);
  const weight = (name: string) =>
    build.initializer(name, float32Tensor([4, 1, 1, 1], Float32Array.of(1, 2, 3, 4)));
  const held = build.op('Conv', [image, weight('held')], {}, { outputs: ['conv'], name: 'conv' });
  const free = build.op('Conv', [image, weight('loose')], {}, { outputs: ['free'], name: 'free' });

  const body = new GraphBuilder('body');
  /** Adds an output that is made of the outer value. */
  const read = (inner: GraphBuilder, output: string) => {
    const node = { name: output, opType: 'Relu', domain: '', attributes: new Map(), docString: '' };
    inner.node({ ...node, inputs: [held], outputs: [output] });
    inner.output(output, 'float32');
  };
  const branch = (name: string) => {
    const inner = new GraphBuilder(name);
    read(inner, name);
    return { kind: 'graph', value: inner.finish() } as const;
  };
  const truth = () => build.constant(tensorOf('bool', [], Uint8Array.of(1)));
  let result: string;
  switch (opType) {
    case 'If':
      result = build.op('If', [build.input('condition', 'bool', [])], {
        then_branch: branch('then'),
        else_branch: branch('else'),
      });
      break;
    case 'Loop':
      body.input('count', 'int64', []);
      body.output(body.input('go', 'bool', []), 'bool');
      read(body, 'step');
      result = build.op('Loop', [build.constant(int64Tensor([2], [])), truth()], {
        body: { kind: 'graph', value: body.finish() },
      });
      break;
    case 'Scan':
      body.input('slice', 'float32', []);
      read(body, 'step');
      result = build.op('Scan', [build.constant(float32Tensor([3], [1, 2, 3]))], {
        body: { kind: 'graph', value: body.finish() },
        num_scan_inputs: 1,
      });
      break;
    default:
      throw opType satisfies never;
  }
  build.output(result, 'float32');
  const flat = build.op('Flatten', [build.op('GlobalAveragePool', [free])]);
  const dense = build.constant(float32Tensor([4, 2], new Float32Array(8).fill(1)));
  build.output(build.op('Gemm', [flat, dense]), 'float32', [1, 2]);
  return modelOf(build.finish());
}
