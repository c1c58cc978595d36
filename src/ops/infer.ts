import { ownValue } from '../base/own-value.ts';
import type { Tensor } from '../base/tensor.ts';
import {
  type Dim,
  type Graph,
  type Model,
  type Node,
  opsetOf,
  type Shape,
  type ValueInfo,
  type ValueType,
} from '../graph/model.ts';
import { compoundFor } from './compounds.ts';
import { plainName } from './dims.ts';
import { ShapeError } from './errors.ts';
import type { ShapeContext } from './op.ts';
import { completed, type PartialTensor, partialOf } from './partial.ts';
import { recordFor } from './table.ts';

export interface InferredTypes {
  /** Type of every value of which one is known: inputs, initialisers and node outputs. */
  readonly types: ReadonlyMap<string, ValueType>;
  /** Every value that is known before running: initialisers, and what shape arithmetic folds to. */
  readonly constants: ReadonlyMap<string, Tensor>;
  /** Small values of which some elements are known: [batch, -1] of a Reshape that was exported with a dynamic batch. */
  readonly partials: ReadonlyMap<string, PartialTensor>;
}

export interface InferOptions {
  /** Shapes to take for inputs of the graph instead of those in the file, such as a definite batch size. */
  readonly inputs?: Readonly<Record<string, Shape>>;
}

/**
 * Walks the graph once and asks each operator's record for the types of its outputs, evaluating shape arithmetic
 * (Shape, Gather, Concat, …) on the way. Sizes may be names ("N") and products with names ("8·N"); sizes that have neither
 * number nor name are named after their place ("image:0"), because whatever they are, they are the same everywhere. An operator without a record, or with an input of
 * unknown type, gives its outputs the type that the file states, else what its weight tells, else none: never a guess.
 * @throws ShapeError where an operator does not admit its inputs
 */
export function inferTypes(model: Model, options: InferOptions = {}): InferredTypes {
  const { graph } = model;
  const types = new Map<string, ValueType>();
  const constants = new Map<string, Tensor>();
  const partials = new Map<string, PartialTensor>();
  const stated = new Map(graph.valueInfos);
  for (const output of graph.outputs) if (!stated.has(output.name)) stated.set(output.name, output);

  for (const { name, type } of graph.inputs) {
    const shape = ownValue(options.inputs, name) ?? type?.shape;
    if (type !== undefined) types.set(name, { ...type, shape: shape && named(shape.map(plain), name) });
  }
  for (const [name, tensor] of graph.initializers) {
    types.set(name, { dtype: tensor.dtype, shape: tensor.shape });
    constants.set(name, tensor);
  }

  const known = { types, constants, partials };
  walk(model, graph.nodes, stated, known);
  return known;
}

/** What is known at some point of a walk. */
interface Known {
  readonly types: Map<string, ValueType>;
  readonly constants: Map<string, Tensor>;
  readonly partials: Map<string, PartialTensor>;
}

/** Adds what nodes make to what is known. @param stated types that the file gives */
function walk(
  model: Model,
  nodes: readonly Node[],
  stated: ReadonlyMap<string, ValueInfo>,
  known: Known,
): void {
  const { types, constants, partials } = known;
  for (const node of nodes) {
    const context: ShapeContext = {
      node,
      opset: opsetOf(model, node.domain) ?? opsetOf(model) ?? 1,
      inputs: node.inputs.map((name) => (name === '' ? undefined : types.get(name))),
      constant: (input) => constants.get(node.inputs[input] ?? ''),
      partial: (input) => partials.get(node.inputs[input] ?? ''),
    };
    const inferred = subgraphTypes(model, node, known) ?? typesOf(node, context);
    for (const [i, name] of node.outputs.entries()) {
      if (name === '') continue;
      const type = inferred?.[i];
      const fallback = stated.get(name)?.type;
      const isOwn = type !== undefined && (type.shape !== undefined || fallback?.shape === undefined);
      const known = isOwn ? type : fallback && { ...fallback, shape: fallback.shape?.map(plain) };
      const best = known?.shape !== undefined ? known : (recordFor(node)?.shapeOfWeight?.(context) ?? known);
      if (best !== undefined) types.set(name, { ...best, shape: best.shape && named(best.shape, name) });
    }
    if (inferred !== undefined) fold(node, context, known);
  }
}

function fold(node: Node, context: ShapeContext, { types, constants, partials }: Known): void {
  const name = node.outputs[0];
  const value = recordFor(node)?.fold?.(context);
  if (!name || value === undefined) return;
  const tensor = 'elements' in value ? completed(value) : value;
  if (tensor !== undefined) constants.set(name, tensor);
  const partial = 'elements' in value ? value : partialOf(value);
  if (partial !== undefined) partials.set(name, partial);
  const { dtype, shape } = tensor ?? value;
  types.set(name, { dtype, shape });
}

/**
 * Types of the outputs of If and Loop: what both branches, or no turn and any turn, agree on. Undefined for other nodes.
 */
function subgraphTypes(model: Model, node: Node, known: Known): (ValueType | undefined)[] | undefined {
  if (node.domain !== '') return undefined;
  const graphOf = (name: string) => {
    const attribute = node.attributes.get(name);
    return attribute?.kind === 'graph' ? attribute.value : undefined;
  };
  if (node.opType === 'If') {
    const branches = [graphOf('then_branch'), graphOf('else_branch')];
    if (!branches.every((branch) => branch !== undefined)) return undefined;
    const condition = known.constants.get(node.inputs[0] ?? '');
    if (condition !== undefined)
      return outputTypes(model, branches[condition.bytes[0] === 0 ? 1 : 0]!, [], known);
    const [yes, no] = branches.map((branch) => outputTypes(model, branch, [], known));
    return node.outputs.map((_, i) => agreed(yes![i], no![i]));
  }
  const body = node.opType === 'Loop' ? graphOf('body') : undefined;
  if (body === undefined) return undefined;
  const initial = node.inputs.slice(2).map((name) => known.types.get(name));
  const turn = (states: readonly (ValueType | undefined)[]) => {
    const counter: ValueType = { dtype: 'int64', shape: [] };
    return outputTypes(model, body, [counter, { dtype: 'bool', shape: [] }, ...states], known).slice(1);
  };
  // A turn may change sizes, so a second one, and then only what no turn changes is known of all.
  const second = initial.map((type, i) => agreed(type, turn(initial)[i]));
  const any = turn(second);
  return node.outputs.map((_, i) => {
    if (i < initial.length)
      return join(second[i]) === join(any[i]) ? second[i] : second[i] && { dtype: second[i].dtype };
    const { dtype, shape } = any[i] ?? {};
    return dtype && { dtype, shape: shape && [null, ...shape] };
  });
}

const join = (type: ValueType | undefined) => `${type?.dtype} ${type?.shape?.join()}`;

/** Types of a subgraph's outputs, in words of the surrounding graph. @param inputs types of the subgraph's own inputs */
function outputTypes(
  model: Model,
  graph: Graph,
  inputs: readonly (ValueType | undefined)[],
  outer: Known,
): (ValueType | undefined)[] {
  const known: Known = {
    types: new Map(outer.types),
    constants: new Map(outer.constants),
    partials: new Map(outer.partials),
  };
  for (const [i, { name }] of graph.inputs.entries()) {
    const type = inputs[i];
    if (type !== undefined) known.types.set(name, { ...type, shape: type.shape && named(type.shape, name) });
    else known.types.delete(name);
  }
  for (const [name, tensor] of graph.initializers) {
    known.types.set(name, { dtype: tensor.dtype, shape: tensor.shape });
    known.constants.set(name, tensor);
  }
  try {
    walk(model, graph.nodes, new Map(), known);
  } catch (error) {
    if (!(error instanceof ShapeError)) throw error;
    return []; // A branch need not fit sizes with which it is not taken.
  }
  const names = new Set([...outer.types.values()].flatMap(({ shape }) => shape ?? []));
  return graph.outputs.map(({ name }) => {
    const type = known.types.get(name);
    // A size that has a name inside alone is another one in every branch and turn.
    return (
      type && {
        ...type,
        shape: type.shape?.map((size) => (names.has(size) || typeof size === 'number' ? size : null)),
      }
    );
  });
}

function agreed(a: ValueType | undefined, b: ValueType | undefined): ValueType | undefined {
  if (a === undefined || b === undefined || a.dtype !== b.dtype) return undefined;
  if (a.shape === undefined || a.shape.length !== b.shape?.length) return { dtype: a.dtype };
  return { dtype: a.dtype, shape: a.shape.map((size, axis) => (size === b.shape![axis] ? size : null)) };
}

/** The shape with names for sizes that have none. */
function named(shape: Shape, value: string): Shape {
  return shape.includes(null) ? shape.map((size, axis) => size ?? plainName(`${value}:${axis}`)) : shape;
}

function plain(size: Dim): Dim {
  return typeof size === 'string' ? plainName(size) : size;
}

function typesOf(node: Node, context: ShapeContext): readonly ValueType[] | undefined {
  const isUnknown = node.inputs.some((name, input) => name !== '' && context.inputs[input] === undefined);
  return isUnknown ? undefined : (recordFor(node) ?? compoundFor(node))?.shape(context);
}
