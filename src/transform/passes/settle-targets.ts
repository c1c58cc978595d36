import { elementsOf, int64Tensor, numbersOf, type Tensor } from '../../base/tensor.ts';
import { intAttribute, tensorAttribute } from '../../graph/attributes.ts';
import { type Dim, type Model, type Node, opsetOf, type Shape, withGraph } from '../../graph/model.ts';
import { type InferredTypes, inferTypes } from '../../ops/infer.ts';
import { settledTarget } from '../../ops/reshape.ts';
import { freshName, takenNames } from '../prune/remove-channels.ts';

/**
 * The same network with target shapes that the graph computes only for the sake of the batch stated instead, so that no
 * channel count is hidden in shape arithmetic: a Reshape to [batch, -1, 12, 64] asks for [0, -1, 12, 64], and a parameter
 * that is expanded to [batch, 1, 768] (a class token; also written as zeros of that shape plus the parameter, or ones times it) is
 * expanded to [batch, 1, 1]. The result still holds the arithmetic that became unused.
 */
export function settleTargets(model: Model): Model {
  const { graph } = model;
  const computed = new Set(graph.nodes.flatMap((node) => node.outputs));
  const isComputed = (name: string | undefined) => name !== undefined && computed.has(name);
  const isTouched = ({ opType, inputs, domain }: Node) =>
    domain === '' &&
    (((opType === 'Reshape' || opType === 'Expand') && isComputed(inputs[1])) ||
      (opType === 'ConstantOfShape' && isComputed(inputs[0])));
  if (!graph.nodes.some(isTouched)) return model;

  const inferred = inferTypes(model);
  const initializers = new Map(graph.initializers);
  const taken = takenNames(model);
  const fills = fillsOf(graph.nodes, inferred);
  const constantOf = (name: string) => inferred.constants.get(name);
  const store = (hint: string, values: readonly number[]): string => {
    const name = freshName(hint, taken);
    initializers.set(name, int64Tensor(values));
    return name;
  };
  const nodes = graph.nodes.flatMap((node): Node[] => {
    const output = node.outputs[0] ?? '';
    if (isTouched(node) && node.opType === 'Reshape') {
      const target = settledReshape(node, inferred);
      if (target === undefined) return [node];
      return [{ ...node, inputs: [node.inputs[0]!, store(`${output}/target`, target)] }];
    }
    const expansion = expansionOf(node, fills, constantOf);
    if (expansion === undefined || !isComputed(expansion.target)) return [node];
    if ((opsetOf(model) ?? 1) < FIRST_EXPAND) return [node];
    const length = inferred.types.get(expansion.target)?.shape?.[0];
    const target = typeof length === 'number' ? withoutOwnSizes(expansion, length, inferred) : undefined;
    if (target === undefined) return [node];
    const parts = target.map((size, axis): [Node[], string] => {
      if (typeof size === 'number') return [[], store(`${output}/size`, [size])];
      const value = freshName(`${output}/size`, taken);
      return [[plainNode('Gather', [expansion.target, store(`${output}/axis`, [axis])], value)], value];
    });
    const shape = freshName(`${output}/target`, taken);
    const axis = new Map([['axis', { kind: 'int', value: 0n } as const]]);
    const joined = plainNode(
      'Concat',
      parts.map(([, value]) => value),
      shape,
    );
    return [
      ...parts.flatMap(([gathers]) => gathers),
      { ...joined, attributes: axis },
      { ...plainNode('Expand', [expansion.parameter, shape], output), name: node.name },
    ];
  });
  return withGraph(model, { ...graph, nodes, initializers });
}

/** The opset that brought Expand. */
const FIRST_EXPAND = 8;

function settledReshape(node: Node, { types, partials, constants }: InferredTypes): number[] | undefined {
  const target = node.inputs[1] ?? '';
  const value = constants.get(target);
  const elements = value === undefined ? partials.get(target)?.elements : numbersOf(value);
  const from = types.get(node.inputs[0] ?? '')?.shape;
  if (elements === undefined) return undefined;
  return settledTarget(elements, from, intAttribute(node, 'allowzero', 0) === 0);
}

interface Expansion {
  readonly parameter: string;
  readonly tensor: Tensor;
  readonly target: string;
}

/** A parameter that is expanded, by Expand, by adding it to zeros or by multiplying it with ones. */
function expansionOf(
  node: Node,
  fills: ReadonlyMap<string, Fill>,
  constantOf: (name: string) => Tensor | undefined,
): Expansion | undefined {
  const [a = '', b = ''] = node.inputs;
  const of = (parameter: string, target: string | undefined): Expansion | undefined => {
    const tensor = constantOf(parameter);
    return tensor === undefined || target === undefined ? undefined : { parameter, tensor, target };
  };
  if (node.domain !== '') return undefined;
  if (node.opType === 'Expand') return of(a, b);
  const fill = NEUTRAL_FILLS[node.opType];
  const shapeOf = (name: string) => (fills.get(name)?.fill === fill ? fills.get(name)?.shape : undefined);
  return fill === undefined ? undefined : (of(a, shapeOf(b)) ?? of(b, shapeOf(a)));
}

/** Tensors of one value that give only their shape to the operator's result: zeros plus x, ones times x. */
const NEUTRAL_FILLS: Readonly<Record<string, number>> = { Add: 0, Mul: 1 };

interface Fill {
  readonly fill: number;
  /** The value that says in which shape. */
  readonly shape: string;
}

/** Values that are one number in a computed shape. */
function fillsOf(nodes: readonly Node[], { constants }: InferredTypes): Map<string, Fill> {
  const fills = new Map<string, Fill>();
  for (const node of nodes) {
    if (node.opType !== 'ConstantOfShape' || node.domain !== '' || constants.has(node.outputs[0]!)) continue;
    const value = tensorAttribute(node, 'value');
    const fill = value === undefined ? 0 : value.dtype === 'float32' ? elementsOf(value)[0] : undefined;
    if (fill !== undefined) fills.set(node.outputs[0]!, { fill: Number(fill), shape: node.inputs[0]! });
  }
  return fills;
}

/**
 * The target with 1 wherever the parameter has a size of its own: it can only be expanded to that. Null where a size has
 * to be computed. Undefined: nothing to gain.
 */
function withoutOwnSizes(
  { tensor, target }: Expansion,
  length: number,
  { partials }: InferredTypes,
): readonly (number | null)[] | undefined {
  if (length < tensor.shape.length) return undefined;
  const own: Shape = [...new Array<Dim>(length - tensor.shape.length).fill(1), ...tensor.shape];
  const elements = partials.get(target)?.elements;
  const sizes = own.map((size, axis) => {
    const asked = elements?.[axis];
    return size !== 1 ? 1 : typeof asked === 'number' ? asked : null;
  });
  return sizes.some((size, axis) => size !== elements?.[axis] && size !== null) ? sizes : undefined;
}

function plainNode(opType: string, inputs: readonly string[], output: string): Node {
  return {
    name: output,
    opType,
    domain: '',
    inputs,
    outputs: [output],
    attributes: new Map(),
    docString: '',
  };
}
