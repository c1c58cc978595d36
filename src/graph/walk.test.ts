import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { float32Tensor } from '../base/tensor.ts';
import { modelOf } from './build.ts';
import { checkModel } from './check.ts';
import type { Graph, Node } from './model.ts';
import {
  consumersOf,
  isOutput,
  producersOf,
  readsOf,
  removeUnused,
  renameValues,
  sortTopologically,
} from './walk.ts';

function node(opType: string, inputs: string[], outputs: string[], branch?: Graph): Node {
  const attributes: Node['attributes'] = new Map(branch ? [['body', { kind: 'graph', value: branch }]] : []);
  return { name: '', opType, domain: '', inputs, outputs, attributes, docString: '' };
}

function graph(
  name: string,
  inputs: string[],
  nodes: Node[],
  outputs: string[],
  constants: string[] = [],
): Graph {
  return {
    name,
    nodes,
    inputs: inputs.map((input) => ({ name: input })),
    outputs: outputs.map((output) => ({ name: output })),
    initializers: new Map(constants.map((constant) => [constant, float32Tensor([1], [1])])),
    valueInfos: new Map(
      nodes.flatMap((each) => each.outputs.filter(Boolean)).map((value) => [value, { name: value }]),
    ),
    docString: '',
  };
}

/** x → a; a subgraph reads `a` and the initialiser `w`; `dead` and `unused` lead nowhere. */
const inner = graph('inner', ['i'], [node('Add', ['i', 'a'], ['j']), node('Mul', ['j', 'w'], ['k'])], ['k']);
const outer = graph(
  'outer',
  ['x', 'ignored'],
  [node('Relu', ['x'], ['a']), node('Neg', ['x'], ['dead']), node('Loop', ['x', ''], ['y', ''], inner)],
  ['y'],
  ['w', 'unused'],
);

describe('walking a graph', () => {
  it('finds who makes and who reads a value, also across subgraphs', () => {
    expect(producersOf(outer).get('y')?.opType).toBe('Loop');
    expect(producersOf(outer).has('')).toBe(false);
    expect(
      consumersOf(outer)
        .get('x')
        ?.map((each) => each.opType),
    ).toEqual(['Relu', 'Neg', 'Loop']);
    expect(
      consumersOf(outer)
        .get('w')
        ?.map((each) => each.opType),
    ).toEqual(['Loop']);
    expect(consumersOf(outer).has('i')).toBe(false);
    expect([...readsOf(outer.nodes[2]!)]).toEqual(['x', 'a', 'w']);
    expect([isOutput(outer, 'y'), isOutput(outer, 'a')]).toEqual([true, false]);
  });

  it('removes what no output needs and keeps what only a subgraph reads', () => {
    const kept = removeUnused(outer);
    expect(kept.nodes.map((each) => each.opType)).toEqual(['Relu', 'Loop']);
    expect([...kept.initializers.keys()]).toEqual(['w']);
    expect([...kept.valueInfos.keys()]).toEqual(['a', 'y']);
    expect(kept.inputs).toEqual(outer.inputs);
    expect(outer.nodes).toHaveLength(3);
  });

  it('renames values everywhere, but not what a subgraph defines under the same name', () => {
    const renamed = renameValues(
      outer,
      new Map([
        ['a', 'A'],
        ['w', 'W'],
        ['y', 'Y'],
        ['i', 'I'],
        ['absent', 'q'],
      ]),
    );
    checkModel(modelOf(renamed));
    const body = renamed.nodes[2]!.attributes.get('body');
    const inside = body?.kind === 'graph' ? body.value.nodes.map((each) => each.inputs) : [];
    expect(inside).toEqual([
      ['i', 'A'],
      ['j', 'W'],
    ]);
    expect(renamed.outputs).toEqual([{ name: 'Y' }]);
    expect([...renamed.initializers.keys()]).toEqual(['W', 'unused']);
    expect(renamed.valueInfos.get('A')).toEqual({ name: 'A' });
  });

  it('lets names be swapped, and refuses names that are taken', () => {
    const swapped = renameValues(
      outer,
      new Map([
        ['a', 'dead'],
        ['dead', 'a'],
      ]),
    );
    expect(swapped.nodes.map((each) => each.outputs[0])).toEqual(['dead', 'a', 'y']);
    expect(() => renameValues(outer, new Map([['a', 'y']]))).toThrow(/two values would have the name "y"/);
    expect(() => renameValues(outer, new Map([['a', 'j']]))).toThrow(/"j" is taken inside it/);
  });

  it('sorts any shuffled graph, and leaves a sorted one in its order', () => {
    const shuffles = fc.integer({ min: 1, max: 12 }).chain((count) => {
      const edges = fc.array(fc.tuple(fc.nat(count - 1), fc.nat(count - 1)), { maxLength: 30 });
      const order = fc.shuffledSubarray([...Array(count).keys()], { minLength: count });
      return fc.tuple(fc.constant(count), edges, order);
    });
    fc.assert(
      fc.property(shuffles, ([count, edges, order]) => {
        const nodes = Array.from({ length: count }, (_, i) => {
          const reads = edges.filter(([from, to]) => to === i && from < i).map(([from]) => `v${from}`);
          return node('Op', ['x', ...reads], [`v${i}`]);
        });
        const sorted = graph('g', ['x'], nodes, [`v${count - 1}`]);
        expect(sortTopologically(sorted).nodes).toEqual(nodes);
        const shuffled = { ...sorted, nodes: order.map((i) => nodes[i]!) };
        checkModel(modelOf(sortTopologically(shuffled)));
      }),
      { seed: 3, numRuns: 300 },
    );
  });

  it('sorts graphs deeper than the call stack', () => {
    const depth = 50_000;
    const chain = Array.from({ length: depth }, (_, i) =>
      node('Relu', [i === 0 ? 'x' : `v${i - 1}`], [`v${i}`]),
    );
    const sorted = sortTopologically(graph('deep', ['x'], chain.toReversed(), [`v${depth - 1}`]));
    expect(sorted.nodes.at(0)).toBe(chain[0]);
    expect(sorted.nodes.at(-1)).toBe(chain.at(-1));
  });

  it('names a node on a cycle, also one that closes through a subgraph', () => {
    const body = graph('body', [], [node('Neg', ['b'], ['n'])], ['n']);
    const cyclic = graph('g', ['x'], [node('If', ['x'], ['a'], body), node('Relu', ['a'], ['b'])], ['b']);
    expect(() => sortTopologically(cyclic)).toThrow(/If \(output "a"\) depends on its own output/);
  });
});
