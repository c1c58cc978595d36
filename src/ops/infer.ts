import type { Tensor } from '../base/tensor.ts';
import { type Model, type Node, opsetOf, type Shape, type ValueType } from '../graph/model.ts';
import { compoundFor } from './compounds.ts';
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
 * (Shape, Gather, Concat, …) on the way. Sizes may be names ("N"); sizes of inputs that have none are named after their
 * place ("image:0"), because whatever they are, they are the same everywhere. An operator without a record, or with an input of
 * unknown type, gives its outputs the type that the file states, else none: never a guess.
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
    const shape = options.inputs?.[name] ?? type?.shape;
    if (type !== undefined)
      types.set(name, { ...type, shape: shape?.map((size, axis) => size ?? `${name}:${axis}`) });
  }
  for (const [name, tensor] of graph.initializers) {
    types.set(name, { dtype: tensor.dtype, shape: tensor.shape });
    constants.set(name, tensor);
  }

  for (const node of graph.nodes) {
    const context: ShapeContext = {
      node,
      opset: opsetOf(model, node.domain) ?? opsetOf(model) ?? 1,
      inputs: node.inputs.map((name) => (name === '' ? undefined : types.get(name))),
      constant: (input) => constants.get(node.inputs[input] ?? ''),
      partial: (input) => partials.get(node.inputs[input] ?? ''),
    };
    const inferred = typesOf(node, context);
    for (const [i, name] of node.outputs.entries()) {
      if (name === '') continue;
      const type = inferred?.[i];
      const fallback = stated.get(name)?.type;
      if (type !== undefined && (type.shape !== undefined || fallback?.shape === undefined))
        types.set(name, type);
      else if (fallback !== undefined) types.set(name, fallback);
    }
    if (inferred !== undefined) fold(node, context);
  }
  return { types, constants, partials };

  function fold(node: Node, context: ShapeContext): void {
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
}

function typesOf(node: Node, context: ShapeContext): readonly ValueType[] | undefined {
  const isUnknown = node.inputs.some((name, input) => name !== '' && context.inputs[input] === undefined);
  return isUnknown ? undefined : (recordFor(node) ?? compoundFor(node))?.shape(context);
}
