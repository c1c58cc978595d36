import { elementCount, numbersOf } from '../../base/tensor.ts';
import { GraphBuilder } from '../../graph/build.ts';
import { type Dim, type Graph, type Model, type Node, opsetOf, withGraph } from '../../graph/model.ts';
import { definitionsOf, readsOf, subgraphsOf } from '../../graph/walk.ts';
import { isCompoundDim, productOf } from '../../ops/dims.ts';
import { type InferredTypes, inferTypes } from '../../ops/infer.ts';

/**
 * The same network in which every vector of sizes that a node asks for and of which only some have a number (the target
 * of a Reshape, the sizes of a Resize) is one Concat of its elements: numbers as constants, other sizes asked of the first
 * value that has them. However an exporter computes [batch, 8, 4, height, width], the numbers stand in it where pruning
 * finds them, and the rest asks no value for its channels.
 */
export function settleVectors(model: Model): Model {
  const { graph } = model;
  const inferred = inferTypes(model);
  const vectorOf = (node: Node) => vectorInput(node, inferred, opsetOf(model) ?? 1);
  const settled = new Set(
    graph.nodes.filter((node) => isSettled(node, graph, inferred)).map((node) => node.outputs[0]!),
  );
  const readers = readersOf(graph);
  const isOpen = (node: Node, input: number) =>
    !settled.has(node.inputs[input]!) || (readers.get(node.inputs[input]!) ?? 0) > 1;
  const isWanted = (node: Node) => {
    const input = vectorOf(node);
    if (input === undefined || !isOpen(node, input)) return false;
    const { elements } = inferred.partials.get(node.inputs[input]!)!;
    return elements.some((size) => typeof size === 'number' || isCompoundDim(size));
  };
  if (!graph.nodes.some(isWanted)) return model;

  const build = new GraphBuilder(graph.name, { ...graph, nodes: [] });
  for (const each of [graph, ...graph.nodes.flatMap(subgraphsOf)]) build.avoid(definitionsOf(each));
  const elements = new Elements(build, graph, inferred);
  for (const { name } of graph.inputs) elements.meet(name);
  for (const node of graph.nodes) {
    const input = isWanted(node) ? vectorOf(node)! : -1;
    const vector = input < 0 ? undefined : elements.vector(node.inputs[input]!);
    build.node(vector === undefined ? node : { ...node, inputs: node.inputs.with(input, vector) });
    for (const name of node.outputs) if (name !== '') elements.meet(name);
  }
  const { nodes, initializers } = build.finish();
  return withGraph(model, { ...graph, nodes, initializers });
}

/** Where a node asks for sizes that it is not constant in. */
function vectorInput(
  node: Node,
  { types, constants, partials }: InferredTypes,
  opset: number,
): number | undefined {
  if (node.domain !== '') return undefined;
  const input = node.opType === 'Resize' && opset < FIRST_WITH_SIZES ? undefined : VECTORS[node.opType];
  const name = input === undefined ? '' : (node.inputs[input] ?? '');
  if (name === '' || constants.has(name) || !partials.has(name)) return undefined;
  const type = types.get(name);
  return type?.dtype === 'int64' && type.shape?.length === 1 ? input : undefined;
}

/** Inputs that are sizes. */
const VECTORS: Readonly<Record<string, number>> = { Reshape: 1, Expand: 1, ConstantOfShape: 0, Resize: 3 };

/** The opset in which Resize learnt `sizes`. */
const FIRST_WITH_SIZES = 11;

/** Whether a node joins a vector of constants and single sizes without a number: what this pass makes. */
function isSettled(node: Node, graph: Graph, { partials }: InferredTypes): boolean {
  if (node.opType !== 'Concat' || node.domain !== '') return false;
  return node.inputs.every((name) => {
    const elements = partials.get(name)?.elements;
    return (
      graph.initializers.has(name) ||
      elements === undefined ||
      (elements.length === 1 && typeof elements[0] !== 'number')
    );
  });
}

function readersOf(graph: Graph): ReadonlyMap<string, number> {
  const readers = new Map<string, number>();
  for (const node of graph.nodes)
    for (const name of readsOf(node)) readers.set(name, (readers.get(name) ?? 0) + 1);
  for (const { name } of graph.outputs) readers.set(name, (readers.get(name) ?? 0) + 1);
  return readers;
}

/** Writes single elements of vectors of sizes, each as a vector of length 1. */
class Elements {
  readonly #build: GraphBuilder;
  readonly #inferred: InferredTypes;
  readonly #producers = new Map<string, Node>();
  /** Where a size that has only a name is an axis of a value. */
  readonly #places = new Map<string, { readonly value: string; readonly axis: number }>();
  /** What Shape gives of values. */
  readonly #shapes = new Map<string, string>();
  /** Sizes that are written already. */
  readonly #written = new Map<string, string>();

  constructor(build: GraphBuilder, graph: Graph, inferred: InferredTypes) {
    this.#build = build;
    this.#inferred = inferred;
    for (const node of graph.nodes)
      for (const name of node.outputs) if (name !== '') this.#producers.set(name, node);
  }

  /** A value that is there from now on. */
  meet(value: string): void {
    for (const [axis, size] of (this.#inferred.types.get(value)?.shape ?? []).entries())
      if (typeof size === 'string' && !this.#places.has(size)) this.#places.set(size, { value, axis });
  }

  vector(name: string): string | undefined {
    const elements = this.#inferred.partials.get(name)?.elements;
    if (elements === undefined || elements.length === 0) return undefined;
    const parts = elements.map((_, index) => this.#element(name, index));
    return this.#build.op('Concat', parts, { axis: 0 });
  }

  #element(name: string, index: number): string {
    const size = this.#inferred.partials.get(name)?.elements[index] ?? null;
    if (typeof size === 'number') return this.#build.ints([size]);
    const known = this.#size(size);
    if (known !== undefined) return known;
    const origin = this.#originOf(name, index);
    if (origin !== undefined) return this.#element(origin.name, origin.index);
    const { shape } = this.#inferred.types.get(name) ?? {};
    if (shape?.length !== 1) return this.#build.op('Reshape', [name, this.#build.ints([1])]);
    return shape[0] === 1 ? name : this.#build.op('Gather', [name, this.#build.ints([index])], { axis: 0 });
  }

  /** A size that has a name, or a product of such, asked of the values that have them. */
  #size(size: Dim): string | undefined {
    if (typeof size !== 'string') return undefined;
    const known = this.#written.get(size);
    if (known !== undefined) return known;
    const value = this.#asked(size) ?? this.#product(size);
    if (value !== undefined) this.#written.set(size, value);
    return value;
  }

  #asked(size: string): string | undefined {
    const place = this.#places.get(size);
    if (place === undefined) return undefined;
    const shape = this.#shapes.get(place.value) ?? this.#build.op('Shape', [place.value]);
    this.#shapes.set(place.value, shape);
    return this.#build.op('Gather', [shape, this.#build.ints([place.axis])], { axis: 0 });
  }

  #product(size: string): string | undefined {
    const { count, names } = productOf([size])!; // It has a name, so it is known.
    if (names.length === 1 && count === 1) return undefined;
    const factors = names.map((name) => this.#size(name));
    if (!factors.every((factor) => factor !== undefined)) return undefined;
    const all = count === 1 ? factors : [this.#build.ints([count]), ...factors];
    return all.reduce((product, factor) => this.#build.op('Mul', [product, factor]));
  }

  /** The element of another int64 value that an element is a copy of. */
  #originOf(name: string, index: number): { readonly name: string; readonly index: number } | undefined {
    const node = this.#producers.get(name);
    if (node === undefined || node.domain !== '') return undefined;
    const { types, constants } = this.#inferred;
    const countOf = (value: string) => {
      const { dtype, shape } = types.get(value) ?? {};
      return dtype === 'int64' && shape?.every((size) => typeof size === 'number')
        ? elementCount(shape)
        : undefined;
    };
    const source = node.inputs[0] ?? '';
    switch (node.opType) {
      case 'Concat': {
        let at = index;
        for (const part of node.inputs) {
          const count = countOf(part);
          if (count === undefined) return undefined;
          if (at < count) return { name: part, index: at };
          at -= count;
        }
        return undefined;
      }
      case 'Identity':
      case 'Squeeze':
      case 'Unsqueeze':
      case 'Reshape':
        return countOf(source) === undefined ? undefined : { name: source, index };
      case 'Gather': {
        const count = countOf(source);
        const indices = constants.get(node.inputs[1] ?? '');
        if (count === undefined || indices === undefined || types.get(source)?.shape?.length !== 1)
          return undefined;
        const at = numbersOf(indices)[index]!;
        return { name: source, index: at < 0 ? at + count : at };
      }
      default:
        return undefined;
    }
  }
}
