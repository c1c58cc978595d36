import type { DType } from '../../base/dtype.ts';
import { BonsaiError } from '../../base/errors.ts';
import { elementCount, float32Tensor, int64Tensor, type Tensor, tensorOf } from '../../base/tensor.ts';
import type { Model, Node, Shape } from '../../graph/model.ts';
import { coupleBroadcast } from '../../ops/broadcast.ts';
import type { Labels } from '../../ops/op.ts';
import { recordFor } from '../../ops/table.ts';
import { nameOf, type Propagation } from './labels.ts';
import { freshName, removedTest, takenNames } from './remove-channels.ts';

/**
 * The oracle of pruning: the network at full size in which nothing reads the removed channels. Wherever channels end
 * (the input of a convolution that sums over them, the two sides of a matrix product that contracts them) the value is
 * multiplied by 0 at the removed positions and by 1 at the others. Whatever lies between producer and consumer, it
 * computes what the network without these channels has to compute, except where statistics are taken over channels
 * (`Propagation.inexact`). Masking at the producer would not do: a Sigmoid or a bias on the way makes 0 something else.
 * @param labels any labels of the classes that are removed
 * @throws InvalidArgumentError if a class is frozen
 * @throws BonsaiError `unsupported` where channels end in values that are no floats
 */
export function maskChannels(propagation: Propagation, labels: Iterable<number>): Model {
  const { model, masks } = maskable(propagation);
  const { graph } = model;
  const inputs = graph.inputs.slice(0, propagation.model.graph.inputs.length);
  return {
    ...model,
    graph: {
      ...graph,
      inputs,
      initializers: new Map([...graph.initializers, ...Object.entries(masks(labels))]),
    },
  };
}

/**
 * The same with the masks as further inputs of the network, so that one session answers for any set of channels.
 * Other parts of the graph, its weights above all, are shared with the original.
 */
export function maskable(propagation: Propagation): Maskable {
  const { model, types } = propagation;
  const taken = takenNames(model);
  const points = maskPoints(propagation).map((point) => ({
    ...point,
    mask: freshName(`mask/${point.node}/${point.input}`, taken),
    masked: freshName(`masked/${point.node}/${point.input}`, taken),
    dtype: types.get(point.value)?.dtype ?? 'float32',
  }));
  const nodes = model.graph.nodes.map((node): Node[] => [node]);
  const initializers = new Map(model.graph.initializers);
  for (const { node: index, input, value, labels, mask, masked } of points) {
    const consumer = nodes[index]!.pop()!;
    const read = consumer.inputs[input]!; // Masked already where channels and others that cross them end here.
    const tiles = tiling(value, mask, labels.shape, types.get(value)?.shape);
    for (const [name, tensor] of tiles.constants) initializers.set(name, tensor);
    nodes[index]!.push(...tiles.nodes, plainNode('Mul', [read, tiles.output], masked), {
      ...consumer,
      inputs: consumer.inputs.with(input, masked),
    });
  }
  const inputs = points.map(({ mask, labels, dtype }) => ({
    name: mask,
    type: { dtype, shape: labels.shape },
  }));
  return {
    model: {
      ...model,
      graph: {
        ...model.graph,
        nodes: nodes.flat(),
        initializers,
        inputs: [...model.graph.inputs, ...inputs],
      },
    },
    masks(removed) {
      const isRemoved = removedTest(propagation, removed);
      return Object.fromEntries(
        points.map(({ mask, labels, dtype, value, node }) => {
          const where = () => `"${value}" at ${nameOf(model.graph.nodes[node]!)}`;
          return [mask, maskTensor(labels, isRemoved, dtype, where)];
        }),
      );
    },
  };
}

export interface Maskable {
  readonly model: Model;
  /** Values of the inputs that the model has beyond the original's. @param labels as for `maskChannels` */
  masks(labels: Iterable<number>): Record<string, Tensor>;
}

/** An input of a node at which channels end. */
interface MaskPoint {
  readonly node: number;
  readonly input: number;
  readonly value: string;
  /** The labels that end here; negative at positions that do not. */
  readonly labels: Labels;
}

/**
 * Where removed channels may end: labels of an input that none of the node's outputs carries. Labels that were only
 * united with those of an output (a second part of Concat) count as ended too, which is harmless: what is masked there
 * is removed, and masked again where it really ends. Where channels pass that are each made of all (`Propagation.mixing`),
 * they are masked too.
 */
function maskPoints({ values, crossing, ...rest }: Propagation): MaskPoint[] {
  return [values, crossing].flatMap((labelled) => maskPointsOf(labelled, rest));
}

function maskPointsOf(
  values: Propagation['values'],
  { model, roots, frozen, mixing }: Pick<Propagation, 'model' | 'roots' | 'frozen' | 'mixing'>,
): MaskPoint[] {
  return model.graph.nodes.flatMap((node, index) => {
    // Element by element all operands' channels go on; a masked divisor would make what nobody can mask any more.
    if (recordFor(node)?.coupling === coupleBroadcast) return [];
    const leaving = new Set<number>();
    for (const output of node.outputs) for (const label of values.get(output)?.data ?? []) leaving.add(label);
    return node.inputs.flatMap((value, input) => {
      const labels = values.get(value);
      if (labels === undefined) return [];
      const isMixed = mixing.has(`${index}:${input}`);
      const ended = labels.data.map((label) =>
        label >= 0 && (isMixed || !leaving.has(label)) && !frozen.has(roots[label]!) ? label : -1,
      );
      if (ended.every((label) => label < 0)) return [];
      return [{ node: index, input, value, labels: { shape: labels.shape, data: ended } }];
    });
  });
}

/**
 * A mask of one image for a value that holds those of all images one after the other along an axis (batch · heads):
 * repeated as often as the axis is longer.
 */
function tiling(
  value: string,
  mask: string,
  sizes: readonly number[],
  shape: Shape | undefined,
): { readonly nodes: Node[]; readonly constants: Map<string, Tensor>; readonly output: string } {
  const isMerged = sizes.map((size, axis) => size !== 1 && typeof shape?.[axis] === 'string');
  if (!isMerged.includes(true)) return { nodes: [], constants: new Map(), output: mask };
  const name = (part: string) => `${mask}/${part}`;
  // Other axes are divided by themselves: what they are is nothing to repeat.
  const nodes: Node[] = [
    plainNode('Shape', [value], name('shape')),
    plainNode('Where', [name('merged'), name('shape'), name('sizes')], name('lengths')),
    plainNode('Div', [name('lengths'), name('sizes')], name('repeats')),
    plainNode('Tile', [mask, name('repeats')], name('tiled')),
  ];
  const constants = new Map<string, Tensor>([
    [name('sizes'), int64Tensor(sizes)],
    [name('merged'), tensorOf('bool', [sizes.length], Uint8Array.from(isMerged, Number))],
  ]);
  return { nodes, constants, output: name('tiled') };
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

/** 1 as the raw bits of IEEE half precision. */
const HALF_ONE = 0x3c00;

function maskTensor(
  { shape, data }: Labels,
  isRemoved: (label: number) => boolean,
  dtype: DType,
  where: () => string,
): Tensor {
  const keeps = (_: unknown, i: number) => (data[i]! >= 0 && isRemoved(data[i]!) ? 0 : 1);
  const length = elementCount(shape);
  switch (dtype) {
    case 'float32':
      return float32Tensor(shape, Float32Array.from({ length }, keeps));
    case 'float64':
      return tensorOf('float64', shape, Float64Array.from({ length }, keeps));
    case 'float16':
      return tensorOf(
        'float16',
        shape,
        Uint16Array.from({ length }, (_, i) => HALF_ONE * keeps(_, i)),
      );
    case 'int32':
      return tensorOf('int32', shape, Int32Array.from({ length }, keeps));
    case 'int64':
      return int64Tensor(Array.from({ length }, keeps), shape);
    default:
      throw new BonsaiError(
        'unsupported',
        `Channels of ${where()} end in values of ${dtype}, which cannot be masked. Verify the float network, before quantising.`,
      );
  }
}
