import { BonsaiError } from '../base/errors.ts';
import { ownValue } from '../base/own-value.ts';
import { elementCount } from '../base/tensor.ts';
import { describeNode } from '../graph/attributes.ts';
import type { Dim, Graph, Model, Node, Shape } from '../graph/model.ts';
import { subgraphsOf } from '../graph/walk.ts';
import { describeShape, knownShape } from './dims.ts';
import { ShapeError } from './errors.ts';
import { inferTypes } from './infer.ts';
import { checkInputShapes } from './input-shapes.ts';
import { parametersOf } from './parameters.ts';
import { recordFor } from './table.ts';

export interface GraphCost {
  /** Multiply-accumulates of one inference; convolutions and matrix products, as the literature counts them. */
  readonly macs: number;
  /** Trained values (`parametersOf`): elements of weights, biases and running statistics, floats or quantised. */
  readonly parameters: number;
  /** Multiply-accumulates of each node that has some, by its position in the graph. */
  readonly byNode: ReadonlyMap<number, number>;
}

export interface CountOptions {
  /** Shapes to count at, by default those of the file. An open batch (axis 0 of an input) is 1 (`countedShapes`). */
  readonly inputs?: Readonly<Record<string, Shape>>;
}

/**
 * Counts a model's work and size from its shapes alone.
 * @throws BonsaiError `unsupported` where the shapes around a node that multiplies are unknown, as those of subgraphs are
 */
export function countCost(model: Model, options: CountOptions = {}): GraphCost {
  const inputs = countedShapes(model.graph, options.inputs);
  const { types } = inferTypes(model, { inputs });
  const shapeOf = (name: string) => knownShape(types.get(name)?.shape);

  const byNode = new Map<number, number>();
  let macs = 0;
  for (const [index, node] of model.graph.nodes.entries()) {
    if (subgraphsOf(node).some(hasWork))
      throw new UncountedError(node, 'multiplies inside a subgraph, whose shapes are not known');
    const cost = recordFor(node)?.cost;
    if (cost === undefined) continue;
    const outputs = node.outputs.filter((name) => name !== '').map(shapeOf);
    const isKnown = node.inputs.every((name) => name === '' || shapeOf(name) !== undefined);
    if (!isKnown || !outputs.every((shape) => shape !== undefined)) {
      const side = isKnown ? node.outputs : node.inputs;
      const open = side.find((name) => name !== '' && shapeOf(name) === undefined)!;
      const shape = types.get(open)?.shape;
      const what = isKnown ? 'output' : 'input';
      throw new UncountedError(
        node,
        shape === undefined
          ? `has an ${what} of unknown shape`
          : `has an ${what} of shape ${describeShape(shape)}`,
        inputs,
      );
    }
    const own = cost({ node, inputs: node.inputs.map(shapeOf), outputs }).macs;
    if (own > 0) byNode.set(index, own);
    macs += own;
  }

  return { macs, parameters: countParameters(model), byNode };
}

/** Trained values, as `GraphCost.parameters`; needs no shapes of activations. What several nodes share counts once. */
export function countParameters({ graph }: Model): number {
  let parameters = 0;
  for (const name of parametersOf(graph)) parameters += elementCount(graph.initializers.get(name)!.shape);
  return parameters;
}

/**
 * `countCost`, or a sentence that says why the work is unknown and, where sizes that the file leaves open are why, how to
 * give them.
 * @throws InvalidArgumentError for given shapes that no input can have
 */
export function tryCountCost(
  model: Model,
  options: CountOptions = {},
): GraphCost | { readonly uncounted: string } {
  try {
    return countCost(model, options);
  } catch (error) {
    if (error instanceof UncountedError) return { uncounted: error.message };
    // Of sizes that the file leaves open: a batch that cannot be 1, images that poolings shrink to nothing.
    if (!(error instanceof ShapeError)) throw error;
    const shapes = model.graph.inputs.flatMap(({ name, type }): [string, Shape][] => {
      const shape = ownValue(options.inputs, name) ?? type?.shape;
      return shape === undefined ? [] : [[name, shape]];
    });
    return { uncounted: `${error.message}${openSizesAdvice(Object.fromEntries(shapes))}` };
  }
}

/**
 * Shapes of the inputs to count at: an open batch, which is axis 0 or what is called so, is 1, wherever its name occurs.
 * Other sizes that are open stay so: what depends on them is not known.
 * @throws InvalidArgumentError for given shapes that no input can have
 */
export function countedShapes(
  { inputs }: Pick<Graph, 'inputs'>,
  given: Readonly<Record<string, Shape>> = {},
): Record<string, Shape> {
  checkInputShapes({ inputs }, given);
  const shapes = inputs.flatMap(({ name, type }): [string, Shape][] => {
    const shape = ownValue(given, name) ?? type?.shape;
    return shape === undefined ? [] : [[name, shape]];
  });
  const batches = new Set(shapes.map(([, shape]) => shape[0]).filter((size) => typeof size === 'string'));
  const isBatch = (size: string) => batches.has(size) || /batch/i.test(size);
  const counted = (size: Dim, axis: number): Dim =>
    (typeof size !== 'number' && axis === 0) || (typeof size === 'string' && isBatch(size)) ? 1 : size;
  return Object.fromEntries(shapes.map(([name, shape]) => [name, shape.map(counted)]));
}

/** The work of a node cannot be counted, because sizes around it are open or because it is not known what it does. */
export class UncountedError extends BonsaiError {
  /** @param inputs shapes of the graph's inputs, where sizes that are open may be why */
  constructor(node: Node, why: string, inputs: Readonly<Record<string, Shape>> = {}) {
    super('unsupported', `${describeNode(node)} cannot be counted: it ${why}.${openSizesAdvice(inputs)}`);
  }
}

/** A sentence on how to give the sizes that an input leaves open; empty where none does. */
function openSizesAdvice(inputs: Readonly<Record<string, Shape>>): string {
  const [name, shape] = Object.entries(inputs).find(([, each]) => knownShape(each) === undefined) ?? [];
  if (shape === undefined) return '';
  const sizes = shape.map((size, axis) =>
    typeof size === 'number' ? size : (EXAMPLE_SIZES[axis] ?? EXAMPLE_SIDE),
  );
  return ` The input "${name}" leaves sizes open, ${describeShape(shape)}: give them, such as --shape ${name}=${sizes}.`;
}

/** One image in colour, of the size that most networks are shown with. */
const EXAMPLE_SIDE = 224;
const EXAMPLE_SIZES = [1, 3, EXAMPLE_SIDE, EXAMPLE_SIDE] as const;

function hasWork(graph: Graph): boolean {
  return graph.nodes.some((node) => recordFor(node)?.cost !== undefined || subgraphsOf(node).some(hasWork));
}
