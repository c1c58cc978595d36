import { describe, expect, it } from 'vitest';
import { float32Tensor } from '../base/tensor.ts';
import { GraphBuilder, modelOf } from './build.ts';
import { checkModel } from './check.ts';
import { InvalidGraphError } from './errors.ts';
import type { Graph, Node } from './model.ts';

function node(opType: string, inputs: string[], outputs: string[], rest: Partial<Node> = {}): Node {
  return { name: '', opType, domain: '', inputs, outputs, attributes: new Map(), docString: '', ...rest };
}

function graph(nodes: Node[], rest: Partial<Graph> = {}): Graph {
  return {
    name: 'g',
    nodes,
    inputs: [{ name: 'x' }],
    outputs: [{ name: 'y' }],
    initializers: new Map(),
    valueInfos: new Map(),
    docString: '',
    ...rest,
  };
}

function withBranch(branch: Graph): Node {
  return node('If', ['x'], ['y'], {
    attributes: new Map([['then_branch', { kind: 'graph', value: branch }]]),
  });
}

describe('checkModel', () => {
  it('accepts what the builder makes', () => {
    const b = new GraphBuilder('main');
    b.output(b.op('Add', [b.input('x', 'float32', [2]), b.floats([1, 2])]), 'float32', [2]);
    checkModel(modelOf(b.finish()));
  });

  it('accepts absent inputs, unused outputs, and two nodes of one name', () => {
    checkModel(
      modelOf(
        graph([node('A', ['', 'x'], ['', 'm'], { name: 'n' }), node('B', ['m', ''], ['y'], { name: 'n' })]),
      ),
    );
  });

  it('lets subgraphs read what stands before their node', () => {
    const branch = graph([node('Add', ['x', 'c'], ['z'])], {
      name: 'then',
      inputs: [],
      outputs: [{ name: 'z' }],
    });
    checkModel(modelOf(graph([node('A', ['x'], ['c']), withBranch(branch)])));
    const tooEarly = graph([withBranch(branch), node('A', ['y'], ['c'])]);
    expect(() => checkModel(modelOf(tooEarly))).toThrow(
      /Graph "then", Add \(output "z"\): its input "c" is defined nowhere/,
    );
  });

  const short = { dtype: 'float32' as const, shape: [3], bytes: new Uint8Array(8) };
  it.each<[string, Graph, RegExp]>([
    [
      'an undefined input',
      graph([node('A', ['q'], ['y'])]),
      /A \(output "y"\): its input "q" is defined nowhere/,
    ],
    [
      'a value used before it is made',
      graph([node('A', ['m'], ['y']), node('B', ['x'], ['m'])]),
      /A \(output "y"\): its input "m" is made later, by B \(output "m"\)/,
    ],
    ['a cycle', graph([node('A', ['m'], ['y']), node('B', ['y'], ['m'])]), /depends on its own output/],
    [
      'a node that feeds itself',
      graph([node('A', ['y'], ['y'])]),
      /A \(output "y"\) depends on its own output/,
    ],
    [
      'a value made twice',
      graph([node('A', ['x'], ['y']), node('B', ['x'], ['y'])]),
      /"y" is defined twice.*by B \(output "y"\)/,
    ],
    ['a value that is also an input', graph([node('A', ['x'], ['x'])]), /"x" is defined twice/],
    [
      'an initialiser that is also an input',
      graph([node('A', ['x'], ['y'])], { initializers: new Map([['x', float32Tensor([1], [0])]]) }),
      /"x" is defined twice, the second time by an initializer/,
    ],
    ['an output that nothing makes', graph([node('A', ['x'], ['z'])]), /nothing in it makes its output "y"/],
    [
      'an output listed twice',
      graph([node('A', ['x'], ['y'])], { outputs: [{ name: 'y' }, { name: 'y' }] }),
      /output "y" is listed twice/,
    ],
    ['an input without a name', graph([], { inputs: [{ name: '' }] }), /an input has no name/],
    [
      'a domain without operator set',
      graph([node('A', ['x'], ['y'], { domain: 'custom' })]),
      /domain "custom" is not among/,
    ],
    ['a node without operator', graph([node('', ['x'], ['y'])]), /names no operator/],
    [
      'an initialiser of the wrong size',
      graph([node('A', ['x'], ['y'])], { initializers: new Map([['w', short]]) }),
      /initializer "w" of float32 \[3\] holds 8 bytes/,
    ],
    [
      'a constant of the wrong size',
      graph([
        node('A', ['x'], ['y'], { attributes: new Map([['value', { kind: 'tensor', value: short }]]) }),
      ]),
      /the attribute "value" of float32 \[3\] holds 8 bytes/,
    ],
    [
      'a branch that hands an outer value on',
      graph([withBranch(graph([], { name: 'then', inputs: [], outputs: [{ name: 'x' }] }))]),
      /Graph "then": nothing in it makes its output "x"/,
    ],
  ])('names the place of %s', (_, broken, message) => {
    expect(() => checkModel(modelOf(broken))).toThrow(InvalidGraphError);
    expect(() => checkModel(modelOf(broken))).toThrow(message);
  });

  it('refuses two versions of one operator set', () => {
    const model = modelOf(graph([node('A', ['x'], ['y'])]), { extraOpsets: [{ domain: '', version: 18 }] });
    expect(() => checkModel(model)).toThrow(/imported twice/);
  });
});
