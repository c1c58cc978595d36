import type { DType } from '../base/dtype.ts';
import { BonsaiError } from '../base/errors.ts';
import { elementCount } from '../base/tensor.ts';
import { describeNode } from '../graph/attributes.ts';
import type { Model, Shape } from '../graph/model.ts';
import { inferTypes } from './infer.ts';
import { recordFor } from './table.ts';

/** The first part of the names of constants that scale pixels: part of the graph, but nothing that was learnt. */
export const NORMALIZATION_PREFIX = 'normalize/';

export interface GraphCost {
  /** Multiply-accumulates of one inference; convolutions and matrix products, as the literature counts them. */
  readonly macs: number;
  /** Elements of the floating-point initialisers (running statistics included, pixel normalisation not). */
  readonly parameters: number;
  /** Multiply-accumulates of each node that has some, by its position in the graph. */
  readonly byNode: ReadonlyMap<number, number>;
}

export interface CountOptions {
  /** Shapes to count at; by default those of the file, with every unnamed or named size (the batch) taken as 1. */
  readonly inputs?: Readonly<Record<string, Shape>>;
}

/**
 * Counts a model's work and size from its shapes alone.
 * @throws BonsaiError `unsupported` where the shapes around a node that multiplies are unknown
 */
export function countCost(model: Model, options: CountOptions = {}): GraphCost {
  const inputs = Object.fromEntries(
    model.graph.inputs.flatMap(({ name, type }) => {
      const shape = options.inputs?.[name] ?? type?.shape;
      return shape === undefined ? [] : [[name, shape.map(sizeOf)]];
    }),
  );
  const { types } = inferTypes(model, { inputs });
  const shapeOf = (name: string) => types.get(name)?.shape?.map(sizeOf);

  const byNode = new Map<number, number>();
  let macs = 0;
  for (const [index, node] of model.graph.nodes.entries()) {
    const cost = recordFor(node)?.cost;
    if (cost === undefined) continue;
    const outputs = node.outputs.filter((name) => name !== '').map(shapeOf);
    if (!outputs.every((shape) => shape !== undefined)) {
      throw new BonsaiError(
        'unsupported',
        `${describeNode(node)} cannot be counted: the shape of its output is unknown. Give the shapes of the inputs.`,
      );
    }
    const own = cost({ node, inputs: node.inputs.map(shapeOf), outputs }).macs;
    if (own > 0) byNode.set(index, own);
    macs += own;
  }

  return { macs, parameters: countParameters(model), byNode };
}

/** Elements of the floating-point initialisers, as `GraphCost.parameters`; needs no shapes of activations. */
export function countParameters(model: Model): number {
  let parameters = 0;
  for (const [name, { dtype, shape }] of model.graph.initializers) {
    if (isCountedParameter(name, dtype)) parameters += elementCount(shape);
  }
  return parameters;
}

/** Whether an initialiser counts as parameters. */
export function isCountedParameter(name: string, dtype: DType): boolean {
  const isFloat = dtype.startsWith('float') || dtype === 'bfloat16';
  return isFloat && !name.startsWith(NORMALIZATION_PREFIX);
}

function sizeOf(size: Shape[number]): number {
  return typeof size === 'number' ? size : 1;
}
